#include "common/model/weight_cache_index.h"

#include <xxhash.h>

#include <bit>
#include <cstring>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/json_object.h"

namespace baton {
namespace {

static_assert(std::endian::native == std::endian::little, "numbers in the file are little-endian");

constexpr absl::string_view kMagic = "BATONWTS";
constexpr size_t kFixedBytes = 36;
constexpr size_t kHeadBytesOffset = 16;
constexpr size_t kChecksumBytes = 8;
constexpr uint64_t kMaxHeadBytes = uint64_t{64} << 20;
// Any single dimension: products of two stay within int64.
constexpr int64_t kMaxDimension = int64_t{1} << 30;

int64_t RoundUp(int64_t value, int64_t multiple) { return (value + multiple - 1) / multiple * multiple; }

template <typename T>
void Append(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void AppendText(absl::string_view text, std::string* out) {
  BATON_CHECK(text.size() <= UINT16_MAX);
  Append(static_cast<uint16_t>(text.size()), out);
  out->append(text.data(), text.size());
}

// Reads on from the front; after the end, everything reads as 0 and ok() is false.
class Reader {
 public:
  explicit Reader(absl::string_view bytes) : rest_(bytes) {}

  template <typename T>
  T Read() {
    T value = 0;
    const absl::string_view bytes = Take(sizeof(T));
    if (bytes.size() == sizeof(T)) std::memcpy(&value, bytes.data(), sizeof(T));
    return value;
  }
  std::string ReadText() { return std::string(Take(Read<uint16_t>())); }
  bool ok() const { return ok_; }
  bool at_end() const { return ok_ && rest_.empty(); }

 private:
  absl::string_view Take(size_t size) {
    if (size > rest_.size()) {
      ok_ = false;
      rest_ = {};
      return {};
    }
    const absl::string_view taken = rest_.substr(0, size);
    rest_.remove_prefix(size);
    return taken;
  }

  absl::string_view rest_;
  bool ok_ = true;
};

WeightSection ReadSection(Reader& reader) {
  WeightSection section;
  section.name = reader.ReadText();
  section.outputs = reader.Read<int64_t>();
  section.inputs = reader.Read<int64_t>();
  section.offset = reader.Read<int64_t>();
  section.bytes = reader.Read<int64_t>();
  section.checksum = reader.Read<uint64_t>();
  section.source_checksum = reader.Read<uint64_t>();
  return section;
}

bool IsDimension(int64_t value) { return value >= 1 && value <= kMaxDimension; }

// `end`: of the section before it, or of the head.
absl::Status CheckSection(const WeightSection& section, WeightPrecision precision, int64_t end, int64_t file_bytes) {
  const std::string name = absl::StrCat("section ", Quoted(section.name));
  if (!IsDimension(section.outputs) || !IsDimension(section.inputs)) {
    return absl::DataLossError(absl::StrCat(name, " has the shape [", section.outputs, ", ", section.inputs, "]"));
  }
  const int64_t bytes = PackedBytes(precision, section.outputs, section.inputs);
  if (section.bytes != bytes) {
    return absl::DataLossError(absl::StrCat(name, " has ", section.bytes, " bytes, expected ", bytes));
  }
  if (section.offset < end || section.offset % kSectionAlignment != 0 || section.offset > file_bytes ||
      section.bytes > file_bytes - section.offset) {
    return absl::DataLossError(absl::StrCat(name, " is misplaced, at byte ", section.offset));
  }
  return absl::OkStatus();
}

absl::Status CheckSections(const WeightCacheIndex& index, int64_t head_bytes) {
  absl::flat_hash_set<absl::string_view> names;
  int64_t end = head_bytes;
  for (const WeightSection& section : index.sections) {
    BATON_RETURN_IF_ERROR(CheckSection(section, index.precision, end, index.file_bytes));
    if (!names.insert(section.name).second) {
      return absl::DataLossError(absl::StrCat("there are two sections ", Quoted(section.name)));
    }
    end = section.offset + section.bytes;
  }
  return absl::OkStatus();
}

}  // namespace

void PlaceSections(WeightCacheIndex* index) {
  int64_t end = static_cast<int64_t>(WriteWeightCacheIndex(*index).size());
  for (size_t i = 0; i < index->sections.size(); ++i) {
    WeightSection& section = index->sections[i];
    section.offset = RoundUp(end, i == 0 ? kFirstSectionAlignment : kSectionAlignment);
    end = section.offset + section.bytes;
  }
  index->file_bytes = end;
}

std::string WriteWeightCacheIndex(const WeightCacheIndex& index) {
  std::string head(kMagic);
  Append(static_cast<uint32_t>(kWeightCacheFormatVersion), &head);
  Append(static_cast<uint32_t>(index.packed_layout_version), &head);
  Append(uint64_t{0}, &head);  // bytes of the head, below
  Append(static_cast<uint64_t>(index.file_bytes), &head);
  Append(static_cast<uint32_t>(index.sections.size()), &head);
  AppendText(index.content_hash, &head);
  AppendText(WeightPrecisionName(index.precision), &head);
  for (const WeightSection& section : index.sections) {
    AppendText(section.name, &head);
    Append(section.outputs, &head);
    Append(section.inputs, &head);
    Append(section.offset, &head);
    Append(section.bytes, &head);
    Append(section.checksum, &head);
    Append(section.source_checksum, &head);
  }
  const uint64_t head_bytes = head.size() + kChecksumBytes;
  BATON_CHECK(head_bytes <= kMaxHeadBytes);
  std::memcpy(head.data() + kHeadBytesOffset, &head_bytes, sizeof(head_bytes));
  Append(uint64_t{XXH3_64bits(head.data(), head.size())}, &head);
  return head;
}

absl::StatusOr<WeightCacheIndex> ReadWeightCacheIndex(absl::string_view file, int64_t file_bytes) {
  if (file.substr(0, kMagic.size()) != kMagic) return absl::DataLossError("this is not a file of packed weights");
  Reader fixed(file.substr(kMagic.size()));
  const auto format_version = fixed.Read<uint32_t>();
  const auto layout_version = fixed.Read<uint32_t>();
  const auto head_bytes = fixed.Read<uint64_t>();
  const auto expected_bytes = fixed.Read<uint64_t>();
  const auto count = fixed.Read<uint32_t>();
  if (!fixed.ok()) return absl::DataLossError(absl::StrCat("it ends after ", file.size(), " bytes"));
  if (format_version != kWeightCacheFormatVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("it has format version ", format_version, ", expected ", kWeightCacheFormatVersion));
  }
  if (layout_version != kPackedLayoutVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("its weights are packed in layout version ", layout_version, ", expected ", kPackedLayoutVersion));
  }
  if (head_bytes < kFixedBytes + kChecksumBytes || head_bytes > kMaxHeadBytes || head_bytes > file.size()) {
    return absl::DataLossError(absl::StrCat("its head is said to take ", head_bytes, " of ", file_bytes, " bytes"));
  }
  const absl::string_view head = file.substr(0, head_bytes - kChecksumBytes);
  if (Reader(file.substr(head.size())).Read<uint64_t>() != XXH3_64bits(head.data(), head.size())) {
    return absl::DataLossError("the checksum of its head is wrong");
  }
  if (file_bytes < 0 || static_cast<uint64_t>(file_bytes) != expected_bytes) {
    return absl::DataLossError(absl::StrCat("it has ", file_bytes, " bytes, expected ", expected_bytes));
  }

  WeightCacheIndex index;
  index.packed_layout_version = static_cast<int>(layout_version);
  index.file_bytes = file_bytes;
  Reader reader(head.substr(kFixedBytes));
  index.content_hash = reader.ReadText();
  const absl::StatusOr<WeightPrecision> precision = ParseWeightPrecision(reader.ReadText());
  if (!precision.ok()) return absl::DataLossError(precision.status().message());
  index.precision = *precision;
  // Not `count` sections at once: that many need not be there.
  for (uint32_t i = 0; i < count && reader.ok(); ++i) index.sections.push_back(ReadSection(reader));
  if (!reader.at_end()) return absl::DataLossError("its table of sections has the wrong length");
  BATON_RETURN_IF_ERROR(CheckSections(index, static_cast<int64_t>(head_bytes)));
  return index;
}

}  // namespace baton
