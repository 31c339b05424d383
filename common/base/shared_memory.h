// Memory that one process writes and another one of the same host and user reads.
//
//   BATON_ASSIGN_OR_RETURN(SharedMemory memory, SharedMemory::Create(bytes));     // writer: costs a page
//   ... memory.name() travels to the reader ...
//   BATON_ASSIGN_OR_RETURN(SharedMemoryView view, SharedMemoryView::Open(name));  // reader
//   BATON_RETURN_IF_ERROR(memory.Allocate());                                     // writer, once there is a reader
//   std::memcpy(memory.data() + offset, ...);
//   absl::optional<absl::string_view> bytes = view.Range(offset, length);         // reader
//
// A sealed memory file (memfd), reached through /proc/PROCESS/fd/DESCRIPTOR, because that is robust where a name under
// /dev/shm is not:
//  * It has no name, so nothing is left behind however and whenever either process is killed.
//  * It is sealed against shrinking before anyone hears of it, and the reader checks the seal: a mapping that can lose
//    pages under its reader kills it (SIGBUS).
//  * A full /dev/shm does not matter: it is not there. All pages are allocated before use, so that a lack of memory is
//    an error and not a fault.
// Opening it needs the same user and the same process namespace, which is what "same host" has to mean here. The nonce
// at its beginning proves that the reader opened what the writer meant: a process of another namespace may have the
// same number.
//
// The reader maps it read-only. What it shows may change at any time: read once, then check, then use.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "common/base/file_descriptor.h"
#include "common/base/memory_mapping.h"

namespace baton {

struct SharedMemoryName {
  int64_t process = 0;
  int descriptor = -1;
  // 32 random bytes, equal to the memory's first ones.
  std::string nonce;
  int64_t bytes = 0;
};

// Ranges for data begin here: the nonce has the bytes before.
inline constexpr int64_t kSharedMemoryDataOffset = 4096;

class SharedMemory {
 public:
  // Takes address space and one page. `bytes` includes the nonce's page. UNAVAILABLE when the system has no memory
  // files.
  static absl::StatusOr<SharedMemory> Create(int64_t bytes);

  const SharedMemoryName& name() const { return name_; }
  // Takes the memory itself. Once. RESOURCE_EXHAUSTED when there is not enough.
  absl::Status Allocate();
  // After Allocate. [name().bytes]
  char* data() const { return static_cast<char*>(mapping_.data()); }

 private:
  SharedMemory() = default;
  FileDescriptor file_;
  SharedMemoryName name_;
  MemoryMapping mapping_;
};

class SharedMemoryView {
 public:
  // Whatever `name` says is safe. UNAVAILABLE when it cannot be opened or is not what it is said to be.
  static absl::StatusOr<SharedMemoryView> Open(const SharedMemoryName& name);

  // Absent when that is not wholly within the data.
  absl::optional<absl::string_view> Range(uint64_t offset, uint64_t length) const;

 private:
  explicit SharedMemoryView(MemoryMapping mapping) : mapping_(std::move(mapping)) {}
  MemoryMapping mapping_;
};

}  // namespace baton
