// Writes a file from front to back in pieces of whole huge pages: then the page cache holds it in huge pages, and maps
// them as such.
//
//   SequentialWriter writer(fd, /*position=*/2 << 20, path);
//   BATON_RETURN_IF_ERROR(writer.PadTo(section.offset));
//   BATON_RETURN_IF_ERROR(writer.Append(bytes, size));
//   BATON_RETURN_IF_ERROR(writer.Flush());
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace baton {

class SequentialWriter {
 public:
  static constexpr int64_t kPieceBytes = int64_t{2} << 20;

  // `position`: where the next byte goes, a multiple of kPieceBytes. `path` is for messages.
  SequentialWriter(int fd, int64_t position, std::string path);

  absl::Status Append(const std::byte* data, int64_t bytes);
  // Zeros up to `position`, which must not lie behind.
  absl::Status PadTo(int64_t position);
  // Writes what is gathered, which may end anywhere: nothing can follow it.
  absl::Status Flush();

 private:
  absl::Status WriteWhole(const std::byte* data, int64_t bytes);

  const int fd_;
  const std::string path_;
  int64_t written_;                  // up to here, a multiple of kPieceBytes until Flush
  std::vector<std::byte> gathered_;  // less than kPieceBytes
};

}  // namespace baton
