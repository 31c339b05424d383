// A read-only file mapping, released on destruction, and reading small files whole. Regular files only, but for
// ReadFileOrPipe: a pipe or a device never blocks the caller.
//
//   BATON_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
//   Parse(file.view());
//
// The pages are the page cache's: mapping costs no memory of its own. Whoever truncates a file while it is mapped kills
// the process (SIGBUS): replace files by renaming over them.
#pragma once

#include <cstddef>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/base/memory_mapping.h"

namespace baton {

class MappedFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED or INVALID_ARGUMENT (a directory, an empty file), naming the path.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  absl::string_view view() const { return {static_cast<const char*>(mapping_.data()), mapping_.size()}; }
  size_t size() const { return mapping_.size(); }

 private:
  explicit MappedFile(MemoryMapping mapping) : mapping_(std::move(mapping)) {}
  MemoryMapping mapping_;
};

// The whole of a (small) file. Same errors; INVALID_ARGUMENT beyond max_bytes.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes = size_t{64} << 20);
// Of whatever can be read to its end: also an empty file, one under /proc, or a pipe (`--api-key-file <(command)`),
// which is waited for.
absl::StatusOr<std::string> ReadFileOrPipe(const std::string& path, size_t max_bytes);

}  // namespace baton
