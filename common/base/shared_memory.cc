#include "common/base/shared_memory.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

constexpr size_t kNonceBytes = 32;
// Neither can the size change any more, nor these rules.
constexpr int kSeals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
// More than any sender makes; a mapping takes address space and page tables.
constexpr int64_t kMaxBytes = int64_t{64} << 30;

absl::Status Unavailable(absl::string_view what) {
  return absl::UnavailableError(absl::StrCat("shared memory: ", what, ": ", std::strerror(errno)));
}

absl::Status Unavailable(absl::string_view what, int) {
  return absl::UnavailableError(absl::StrCat("shared memory: ", what));
}

}  // namespace

absl::StatusOr<SharedMemory> SharedMemory::Create(int64_t bytes) {
  BATON_CHECK(bytes > kSharedMemoryDataOffset && bytes <= kMaxBytes);
  SharedMemory memory;
  memory.file_ = FileDescriptor(memfd_create("baton-handoff", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  const int file = memory.file_.get();
  if (!memory.file_.is_open()) return Unavailable("cannot be created");
  if (fchmod(file, S_IRUSR | S_IWUSR) != 0 || ftruncate(file, bytes) != 0 || fcntl(file, F_ADD_SEALS, kSeals) != 0) {
    return Unavailable("cannot be prepared");
  }
  SharedMemoryName& name = memory.name_;
  name.process = getpid();
  name.descriptor = file;
  name.bytes = bytes;
  name.nonce.resize(kNonceBytes);
  BATON_CHECK(getrandom(name.nonce.data(), kNonceBytes, 0) == static_cast<ssize_t>(kNonceBytes));
  if (pwrite(file, name.nonce.data(), kNonceBytes, 0) != static_cast<ssize_t>(kNonceBytes)) {
    return Unavailable("cannot be written");
  }
  return memory;
}

absl::Status SharedMemory::Allocate() {
  BATON_CHECK(mapping_.data() == nullptr);
  int error;
  do {
    error = posix_fallocate(file_.get(), 0, name_.bytes);
  } while (error == EINTR);
  if (error != 0) {
    return absl::ResourceExhaustedError(
        absl::StrCat("shared memory: no room for ", name_.bytes, " bytes: ", std::strerror(error)));
  }
  void* data = mmap(nullptr, name_.bytes, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
  if (data == MAP_FAILED) {
    return absl::ResourceExhaustedError(absl::StrCat("shared memory: cannot be mapped: ", std::strerror(errno)));
  }
  mapping_ = MemoryMapping(data, name_.bytes);
  return absl::OkStatus();
}

absl::StatusOr<SharedMemoryView> SharedMemoryView::Open(const SharedMemoryName& name) {
  if (name.process < 1 || name.descriptor < 0 || name.nonce.size() != kNonceBytes ||
      name.bytes <= kSharedMemoryDataOffset || name.bytes > kMaxBytes) {
    return Unavailable("the offer is malformed", 0);
  }
  // First only a handle: opening whatever else that may be (a pipe, a device) could block or do something.
  const std::string path = absl::StrCat("/proc/", name.process, "/fd/", name.descriptor);
  const FileDescriptor handle(open(path.c_str(), O_PATH | O_CLOEXEC));
  if (!handle.is_open()) return Unavailable(absl::StrCat("cannot open ", path));
  struct stat status;
  struct statfs filesystem;
  if (fstat(handle.get(), &status) != 0 || !S_ISREG(status.st_mode) || fstatfs(handle.get(), &filesystem) != 0 ||
      filesystem.f_type != TMPFS_MAGIC || status.st_size != name.bytes) {
    return Unavailable(absl::StrCat(path, " is not the sender's memory"), 0);
  }
  const FileDescriptor file(open(absl::StrCat("/proc/self/fd/", handle.get()).c_str(), O_RDONLY | O_CLOEXEC));
  if (!file.is_open()) return Unavailable(absl::StrCat("cannot read ", path));
  const int seals = fcntl(file.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0) {
    return Unavailable(absl::StrCat(path, " can be truncated by its owner"), 0);
  }
  std::string nonce(kNonceBytes, '\0');
  if (pread(file.get(), nonce.data(), kNonceBytes, 0) != static_cast<ssize_t>(kNonceBytes) || nonce != name.nonce) {
    return Unavailable(absl::StrCat(path, " is another process's memory"), 0);
  }
  void* data = mmap(nullptr, name.bytes, PROT_READ, MAP_SHARED, file.get(), 0);
  if (data == MAP_FAILED) return Unavailable("cannot be mapped");
  return SharedMemoryView(MemoryMapping(data, name.bytes));
}

absl::optional<absl::string_view> SharedMemoryView::Range(uint64_t offset, uint64_t length) const {
  const uint64_t size = mapping_.size();
  if (offset < static_cast<uint64_t>(kSharedMemoryDataOffset) || offset > size || length > size - offset) {
    return absl::nullopt;
  }
  return absl::string_view(static_cast<const char*>(mapping_.data()) + offset, length);
}

}  // namespace baton
