// Feeds arbitrary bytes to ReadWeightCacheIndex, as a damaged file in the cache directory could.
//
// Input: one byte of choices, then the file's beginning.
//   bit 0     the length of the head and its checksum are made right, so that the contents are reached
//   bits 1-2  how long the file is said to be: as the head says, as many bytes as there are, one less, a mebibyte
//
// Held: no crash; of an index that is taken, every section lies inside the file behind the head, aligned, with the
// bytes its shape calls for, none overlaps another; written again it reads the same.
#include <xxhash.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "common/model/weight_cache_index.h"

namespace baton {
namespace {

constexpr size_t kHeadBytesOffset = 16;
constexpr size_t kFileBytesOffset = 24;
constexpr size_t kLeastHead = 44;

void Seal(std::string* head) {
  const uint64_t bytes = head->size();
  std::memcpy(head->data() + kHeadBytesOffset, &bytes, sizeof(bytes));
  const uint64_t checksum = XXH3_64bits(head->data(), head->size() - sizeof(checksum));
  std::memcpy(head->data() + head->size() - sizeof(checksum), &checksum, sizeof(checksum));
}

int64_t FileBytes(int choice, const std::string& file) {
  const auto size = static_cast<int64_t>(file.size());
  if (choice == 1) return size;
  if (choice == 2) return size - 1;
  if (choice == 3) return 1 << 20;
  int64_t said = size;
  if (file.size() >= kFileBytesOffset + sizeof(said)) std::memcpy(&said, file.data() + kFileBytesOffset, sizeof(said));
  return said;
}

void CheckIndex(const WeightCacheIndex& index, int64_t file_bytes) {
  absl::flat_hash_set<std::string> names;
  int64_t end = static_cast<int64_t>(WriteWeightCacheIndex(index).size());
  for (const WeightSection& section : index.sections) {
    BATON_CHECK(names.insert(section.name).second);
    BATON_CHECK(section.bytes == PackedBytes(index.precision, section.outputs, section.inputs));
    BATON_CHECK(section.offset >= end && section.offset % kSectionAlignment == 0);
    BATON_CHECK(section.bytes >= 0 && section.offset <= file_bytes - section.bytes);
    end = section.offset + section.bytes;
  }
  const auto again = ReadWeightCacheIndex(WriteWeightCacheIndex(index), file_bytes);
  BATON_CHECK(again.ok() && again->sections.size() == index.sections.size());
  BATON_CHECK(again->content_hash == index.content_hash && again->precision == index.precision);
}

}  // namespace
}  // namespace baton

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size == 0) return 0;
  // A copy of its own, so that AddressSanitizer sees every byte read beyond its end.
  std::string file(reinterpret_cast<const char*>(data) + 1, size - 1);
  if ((data[0] & 1) != 0 && file.size() >= baton::kLeastHead) baton::Seal(&file);
  const int64_t file_bytes = baton::FileBytes(data[0] >> 1 & 3, file);
  const auto index = baton::ReadWeightCacheIndex(file, file_bytes);
  if (index.ok()) baton::CheckIndex(*index, file_bytes);
  return 0;
}
