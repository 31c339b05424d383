#include "common/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file_descriptor.h"
#include "common/base/full_io.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

struct OpenedFile {
  FileDescriptor descriptor;
  size_t size = 0;
};

absl::StatusOr<OpenedFile> OpenRegularFile(const std::string& path) {
  // O_NONBLOCK: opening a pipe that nobody writes must not hang; it has no effect on regular files.
  FileDescriptor descriptor(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!descriptor.is_open()) return absl::ErrnoToStatus(errno, absl::StrCat("can't open ", path));
  struct stat info {};
  if (fstat(descriptor.get(), &info) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("can't stat ", path));
  if (S_ISDIR(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": is a directory, expected a file"));
  if (!S_ISREG(info.st_mode)) return absl::InvalidArgumentError(absl::StrCat(path, ": is not a regular file"));
  if (info.st_size == 0) return absl::InvalidArgumentError(absl::StrCat(path, ": the file is empty"));
  return OpenedFile{std::move(descriptor), static_cast<size_t>(info.st_size)};
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  BATON_ASSIGN_OR_RETURN(OpenedFile file, OpenRegularFile(path));
  void* data = mmap(nullptr, file.size, PROT_READ, MAP_SHARED, file.descriptor.get(), 0);
  if (data == MAP_FAILED) return absl::ErrnoToStatus(errno, absl::StrCat("can't map ", path));
  return MappedFile(MemoryMapping(data, file.size));
}

absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes) {
  BATON_ASSIGN_OR_RETURN(OpenedFile file, OpenRegularFile(path));
  if (file.size > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, ": is ", file.size, " bytes long, expected at most ", max_bytes));
  }
  std::string text;
  const int error = ReadUpTo(file.descriptor.get(), file.size, &text);
  if (error != 0) return absl::ErrnoToStatus(error, absl::StrCat("can't read ", path));
  if (text.size() < file.size) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": became shorter while it was read"));
  }
  return text;
}

absl::StatusOr<std::string> ReadFileOrPipe(const std::string& path, size_t max_bytes) {
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  const int error = file.is_open() ? ReadUpTo(file.get(), max_bytes + 1, &text) : errno;
  if (error != 0) return absl::ErrnoToStatus(error, absl::StrCat("cannot read ", path));
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " is larger than ", max_bytes, " bytes: is it the right file?"));
  }
  return text;
}

}  // namespace baton
