#include "common/model/weight_cache_index.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <xxhash.h>

#include <cstring>
#include <string>

namespace baton {
namespace {

using testing::HasSubstr;

WeightSection Section(const std::string& name, int64_t outputs, int64_t inputs) {
  WeightSection section;
  section.name = name;
  section.outputs = outputs;
  section.inputs = inputs;
  section.bytes = PackedBytes(WeightPrecision::kInt8, outputs, inputs);
  section.checksum = 7;
  section.source_checksum = 8;
  return section;
}

WeightCacheIndex TwoSections() {
  WeightCacheIndex index;
  index.content_hash = "0123456789abcdef0123456789abcdef";
  index.precision = WeightPrecision::kInt8;
  index.sections = {Section("a.weight", 20, 64), Section("b.weight[3]", 16, 8)};
  PlaceSections(&index);
  return index;
}

// With the checksum that fits the head as it now is.
std::string Sealed(std::string head) {
  const uint64_t checksum = XXH3_64bits(head.data(), head.size() - 8);
  std::memcpy(head.data() + head.size() - 8, &checksum, 8);
  return head;
}

TEST(WeightCacheIndexTest, ReadsWhatItWrote) {
  const WeightCacheIndex index = TwoSections();
  const std::string head = WriteWeightCacheIndex(index);
  const auto read = ReadWeightCacheIndex(head + "whatever follows", index.file_bytes);
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->content_hash, index.content_hash);
  EXPECT_EQ(read->precision, WeightPrecision::kInt8);
  EXPECT_EQ(read->file_bytes, index.file_bytes);
  ASSERT_EQ(read->sections.size(), 2u);
  EXPECT_EQ(read->sections[1].name, "b.weight[3]");
  EXPECT_EQ(read->sections[1].outputs, 16);
  EXPECT_EQ(read->sections[1].inputs, 8);
  EXPECT_EQ(read->sections[1].checksum, 7u);
  EXPECT_EQ(read->sections[1].source_checksum, 8u);
}

TEST(WeightCacheIndexTest, SectionsAreAligned) {
  const WeightCacheIndex index = TwoSections();
  EXPECT_EQ(index.sections[0].offset, kFirstSectionAlignment);
  EXPECT_EQ(index.sections[1].offset % kSectionAlignment, 0);
  EXPECT_GE(index.sections[1].offset, index.sections[0].offset + index.sections[0].bytes);
  EXPECT_EQ(index.file_bytes, index.sections[1].offset + index.sections[1].bytes);
}

TEST(WeightCacheIndexTest, EveryFlippedBitIsNoticed) {
  const WeightCacheIndex index = TwoSections();
  const std::string head = WriteWeightCacheIndex(index);
  for (size_t byte = 0; byte < head.size(); ++byte) {
    std::string damaged = head;
    damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << byte % 8));
    EXPECT_FALSE(ReadWeightCacheIndex(damaged, index.file_bytes).ok()) << byte;
  }
}

TEST(WeightCacheIndexTest, EveryTruncationIsNoticed) {
  const WeightCacheIndex index = TwoSections();
  const std::string head = WriteWeightCacheIndex(index);
  for (size_t size = 0; size < head.size(); ++size) {
    EXPECT_FALSE(ReadWeightCacheIndex(absl::string_view(head).substr(0, size), index.file_bytes).ok()) << size;
  }
  EXPECT_EQ(ReadWeightCacheIndex(head, index.file_bytes - 1).status().code(), absl::StatusCode::kDataLoss);
}

TEST(WeightCacheIndexTest, OtherVersionsAreToldApartFromDamage) {
  WeightCacheIndex index = TwoSections();
  index.packed_layout_version = kPackedLayoutVersion + 1;
  const auto layout = ReadWeightCacheIndex(WriteWeightCacheIndex(index), index.file_bytes);
  EXPECT_EQ(layout.status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(layout.status().message()), HasSubstr("layout version"));
  std::string head = WriteWeightCacheIndex(TwoSections());
  head[8] = 99;
  EXPECT_EQ(ReadWeightCacheIndex(Sealed(head), index.file_bytes).status().code(),
            absl::StatusCode::kFailedPrecondition);
}

TEST(WeightCacheIndexTest, SectionsThatCannotBeAreRefused) {
  const auto refusal = [](void (*change)(WeightCacheIndex&)) {
    WeightCacheIndex index = TwoSections();
    change(index);
    const auto read = ReadWeightCacheIndex(WriteWeightCacheIndex(index), index.file_bytes);
    EXPECT_EQ(read.status().code(), absl::StatusCode::kDataLoss);
    return std::string(read.status().message());
  };
  EXPECT_THAT(refusal([](WeightCacheIndex& index) { index.sections[1].offset = 4096; }), HasSubstr("misplaced"));
  EXPECT_THAT(refusal([](WeightCacheIndex& index) { index.sections[1].offset += 64; }), HasSubstr("misplaced"));
  EXPECT_THAT(refusal([](WeightCacheIndex& index) { index.sections[1].offset = INT64_MAX / 4096 * 4096; }),
              HasSubstr("misplaced"));
  EXPECT_THAT(refusal([](WeightCacheIndex& index) { index.sections[0].offset = -4096; }), HasSubstr("misplaced"));
  EXPECT_THAT(refusal([](WeightCacheIndex& index) { index.sections[1].bytes += 64; }), HasSubstr("expected"));
  EXPECT_THAT(refusal([](WeightCacheIndex& index) { index.sections[1].outputs = 0; }), HasSubstr("shape"));
  EXPECT_THAT(refusal([](WeightCacheIndex& index) { index.sections[1].inputs = INT64_MAX; }), HasSubstr("shape"));
  EXPECT_THAT(refusal([](WeightCacheIndex& index) { index.sections[1].name = index.sections[0].name; }),
              HasSubstr("two sections"));
}

}  // namespace
}  // namespace baton
