#include "common/base/full_io.h"

#include <unistd.h>

#include <cerrno>

namespace baton {
namespace {

// `write_some`: write(2) or a like of it.
template <typename WriteSome>
int WriteAllWith(WriteSome write_some, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = write_some(bytes);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return errno;
    if (written == 0) return EIO;
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return 0;
}

}  // namespace

int WriteAll(int fd, absl::string_view bytes) {
  return WriteAllWith([fd](absl::string_view rest) { return write(fd, rest.data(), rest.size()); }, bytes);
}

int WriteAllAt(int fd, int64_t position, absl::string_view bytes) {
  const char* const begin = bytes.data();
  const auto write_some = [&](absl::string_view rest) {
    return pwrite(fd, rest.data(), rest.size(), position + (rest.data() - begin));
  };
  return WriteAllWith(write_some, bytes);
}

int ReadUpTo(int fd, size_t bytes, std::string* out) {
  const size_t begin = out->size();
  out->resize(begin + bytes);
  size_t done = 0;
  int error = 0;
  while (done < bytes) {
    const ssize_t got = read(fd, out->data() + begin + done, bytes - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) error = errno;
    if (got <= 0) break;
    done += static_cast<size_t>(got);
  }
  out->resize(begin + done);
  return error;
}

bool MeansDiskFull(int error) { return error == ENOSPC || error == EDQUOT || error == EFBIG; }

}  // namespace baton
