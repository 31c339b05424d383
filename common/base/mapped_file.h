// A read-only file mapping, released on destruction, and reading small files whole. Regular files only: a pipe or a
// device never blocks the caller.
//
//   BATON_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(path));
//   Parse(file.view());
//
// The pages are the page cache's: mapping costs no memory of its own. Whoever truncates a file while it is mapped kills
// the process (SIGBUS): replace files by renaming over them.
#pragma once

#include <cstddef>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baton {

class MappedFile {
 public:
  // NOT_FOUND, PERMISSION_DENIED or INVALID_ARGUMENT (a directory, an empty file), naming the path.
  static absl::StatusOr<MappedFile> Open(const std::string& path);
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  ~MappedFile();

  absl::string_view view() const { return {static_cast<const char*>(data_), size_}; }
  size_t size() const { return size_; }

 private:
  MappedFile(void* data, size_t size) : data_(data), size_(size) {}
  void* data_ = nullptr;
  size_t size_ = 0;
};

// The whole of a (small) file. Same errors; INVALID_ARGUMENT beyond max_bytes.
absl::StatusOr<std::string> ReadFile(const std::string& path, size_t max_bytes = size_t{64} << 20);

}  // namespace baton
