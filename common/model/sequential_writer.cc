#include "common/model/sequential_writer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/full_io.h"
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
  BATON_RETURN_IF_ERROR(WriteWhole(data, whole));
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
  BATON_RETURN_IF_ERROR(WriteWhole(gathered_.data(), static_cast<int64_t>(gathered_.size())));
  gathered_.clear();
  return absl::OkStatus();
}

absl::Status SequentialWriter::WriteWhole(const std::byte* data, int64_t bytes) {
  const absl::string_view whole(reinterpret_cast<const char*>(data), static_cast<size_t>(bytes));
  if (const int error = WriteAllAt(fd_, written_, whole); error != 0) {
    return absl::ErrnoToStatus(error, absl::StrCat("can't write ", path_));
  }
  written_ += bytes;
  return absl::OkStatus();
}

}  // namespace baton
