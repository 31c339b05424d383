// The head of a cache file of packed weights: what the file was made from and where each matrix is.
//
//   offset  bytes
//   0       8      "BATONWTS"
//   8       4      version of this format
//   12      4      kPackedLayoutVersion
//   16      8      bytes of the head, its checksum included
//   24      8      bytes of the file
//   32      4      number of sections
//   36      2 + n  content hash of the checkpoint
//           2 + n  name of the precision
//   then for each section, in the order of their places in the file:
//           2 + n  name
//           8 x 6  outputs, inputs, offset, bytes, checksum of the bytes, checksum of the checkpoint's bytes
//   last    8      XXH3-64 of the head before it
//
// Little-endian; texts are preceded by their length. Sections start at multiples of kSectionAlignment, the first one at
// one of kFirstSectionAlignment, and never overlap.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/compute/packed_matrix.h"

namespace baton {

struct WeightSection {
  std::string name;
  int64_t outputs = 0;
  int64_t inputs = 0;
  // In the file.
  int64_t offset = 0;
  int64_t bytes = 0;
  // BlockChecksum of the packed bytes, and of what they were made from.
  uint64_t checksum = 0;
  uint64_t source_checksum = 0;
};

struct WeightCacheIndex {
  std::string content_hash;
  WeightPrecision precision = WeightPrecision::kBf16;
  int packed_layout_version = kPackedLayoutVersion;
  std::vector<WeightSection> sections;
  int64_t file_bytes = 0;
};

inline constexpr int kWeightCacheFormatVersion = 1;
inline constexpr int64_t kSectionAlignment = 4096;
// A huge page.
inline constexpr int64_t kFirstSectionAlignment = int64_t{2} << 20;

// Chooses offsets and file_bytes for sections whose other fields (but for checksums) are set.
void PlaceSections(WeightCacheIndex* index);

// Only checksums change afterwards: the head keeps its length.
std::string WriteWeightCacheIndex(const WeightCacheIndex& index);

// `file`: the file's bytes, or as many of its first ones as the head takes; `file_bytes`: how many there are in all.
// FAILED_PRECONDITION for another version of the format or of the packed layout, DATA_LOSS for what no version writes:
// messages say what was found, without the path.
absl::StatusOr<WeightCacheIndex> ReadWeightCacheIndex(absl::string_view file, int64_t file_bytes);

}  // namespace baton
