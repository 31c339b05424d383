// Shared memory of one pair (sending worker, decode worker on the same host), and which parts of it are in use. It is
// offered with the pair's first handoffs and takes memory only once the decode worker has opened it. Thread-safe.
//
//   HandoffMemory memory(bytes);
//   absl::optional<SharedMemoryName> offer = memory.Offer();      // absent: there is no use in offering
//   if (memory.Accepted()) ...                                    // the decode worker has it: ready for use
//   if (char* bytes = memory.Allocate(size, &offset)) ... fill, send (offset, size), and when it was read:
//   memory.Free(offset, size);
#pragma once

#include <cstdint>
#include <map>

#include "absl/synchronization/mutex.h"
#include "absl/types/optional.h"
#include "common/base/shared_memory.h"

namespace baton {

class HandoffMemory {
 public:
  // At most `bytes` for data.
  explicit HandoffMemory(int64_t bytes);
  HandoffMemory(const HandoffMemory&) = delete;

  absl::optional<SharedMemoryName> Offer();
  // False when there is no memory for it after all: never offered again.
  bool Accepted();
  // The decode worker cannot open it: never offered again.
  void Refused();

  // nullptr: no range of `bytes` is free, or it was not accepted.
  char* Allocate(int64_t bytes, int64_t* offset);
  void Free(int64_t offset, int64_t bytes);
  int64_t used() const;

 private:
  void GiveUp() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t bytes_;
  mutable absl::Mutex mutex_;
  // Absent before the first offer, and after it was given up.
  absl::optional<SharedMemory> memory_ ABSL_GUARDED_BY(mutex_);
  bool given_up_ ABSL_GUARDED_BY(mutex_) = false;
  // Free ranges, offset to length; neighbours are joined.
  std::map<int64_t, int64_t> free_ ABSL_GUARDED_BY(mutex_);
  int64_t used_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace baton
