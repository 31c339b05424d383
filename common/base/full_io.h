// Reads and writes that go on until all is done, however little the system takes or gives at a time.
//
//   if (const int error = WriteAll(fd, bytes); error != 0) return absl::ErrnoToStatus(error, "can't write");
//   if (const int error = ReadUpTo(fd, 100, &bytes); error != 0) ...         // fewer than 100: the end of the file
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace baton {

// 0, or the errno of the write that failed.
int WriteAll(int fd, absl::string_view bytes);
// At this place in the file, whatever the file's own position, which stays.
int WriteAllAt(int fd, int64_t position, absl::string_view bytes);
// Appends up to `bytes`, fewer only at the end of the file. 0, or the errno of the read that failed.
int ReadUpTo(int fd, size_t bytes, std::string* out);
// The disk, or a quota or limit of the file's size, is used up.
bool MeansDiskFull(int error);

}  // namespace baton
