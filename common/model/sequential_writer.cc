#include "common/model/sequential_writer.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace baton {

SequentialWriter::SequentialWriter(int fd, int64_t position, std::string path)
    : fd_(fd), path_(std::move(path)), written_(position) {
  BATON_CHECK(position % kPieceBytes == 0);
  gathered_.reserve(kPieceBytes);
}

absl::Status SequentialWriter::Append(const std::byte* data, int64_t bytes) {
  if (!gathered_.empty()) {
    const int64_t taken = std::min(bytes, kPieceBytes - static_cast<int64_t>(gathered_.size()));
    gathered_.insert(gathered_.end(), data, data + taken);
    data += taken;
    bytes -= taken;
    if (static_cast<int64_t>(gathered_.size()) < kPieceBytes) return absl::OkStatus();
    BATON_RETURN_IF_ERROR(Flush());
  }
  const int64_t whole = bytes / kPieceBytes * kPieceBytes;
  BATON_RETURN_IF_ERROR(WriteFully(fd_, written_, data, whole, path_));
  written_ += whole;
  gathered_.insert(gathered_.end(), data + whole, data + bytes);
  return absl::OkStatus();
}

absl::Status SequentialWriter::PadTo(int64_t position) {
  const int64_t gap = position - (written_ + static_cast<int64_t>(gathered_.size()));
  BATON_CHECK(gap >= 0);
  const std::vector<std::byte> zeros(static_cast<size_t>(gap));
  return Append(zeros.data(), gap);
}

absl::Status SequentialWriter::Flush() {
  const auto size = static_cast<int64_t>(gathered_.size());
  BATON_RETURN_IF_ERROR(WriteFully(fd_, written_, gathered_.data(), size, path_));
  written_ += size;
  gathered_.clear();
  return absl::OkStatus();
}

absl::Status WriteFully(int fd, int64_t position, const std::byte* data, int64_t bytes, const std::string& path) {
  while (bytes > 0) {
    const ssize_t count = pwrite(fd, data, static_cast<size_t>(bytes), position);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0) return absl::ErrnoToStatus(errno, absl::StrCat("can't write ", path));
    position += count;
    data += count;
    bytes -= count;
  }
  return absl::OkStatus();
}

}  // namespace baton
