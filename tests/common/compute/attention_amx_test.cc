// Attention's AMX kernel over an emulation of tiles, on CPUs that have AVX512-BF16 but no AMX; where there is AMX,
// AttentionTest runs it on that.
#include <gtest/gtest.h>

#if defined(__x86_64__)

#include <cmath>
#include <vector>

#include "common/compute/attention.h"
#include "common/compute/attention_scratch.h"
#include "tests/common/compute/emulated_tiles.h"
#include "tests/common/compute/random_values.h"

// g++ 12's own AVX-512 headers start from undefined registers on purpose.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wpsabi"
#endif

#define BATON_ISA_BODY "common/compute/attention_amx.inc"
#include "common/compute/each_isa.inc"

namespace baton {
namespace {

class AttentionAmxTest : public testing::Test {
 protected:
  static constexpr int kPositions = 300;

  void SetUp() override {
    if (SupportedIsas().back() < Isa::kAvx512Bf16) GTEST_SKIP() << "needs AVX512-BF16";
  }

  void Use(int head_dim) {
    keys_ = ToBf16(RandomFloats(kPositions * head_dim, 11));
    values_ = ToBf16(RandomFloats(kPositions * head_dim, 12));
    vectors_ = RoundedToBf16(RandomFloats(kMaxTileQueries * head_dim, 3, 3.0f));
    shape_ = {head_dim, 1.0f / std::sqrt(static_cast<float>(head_dim)), 20.0f, KvElement::kBf16, false};
  }
  // Position i of the state is 7 + i. Ends advance by 3, and every third query sees 70 keys only.
  AttentionQuery Query(int i, std::vector<float>& outputs) {
    const int64_t end = 57 + 3 * i;
    return {&vectors_[i * shape_.head_dim], &outputs[i * shape_.head_dim],
            i % 3 == 0 ? std::max<int64_t>(7, end - 70) : 7, end};
  }
  void Attend(const std::vector<AttentionQuery>& queries) {
    const KeyValueRows rows = Rows();
    avx512bf16::AttendOnTiles(tiles_, shape_, &rows, 1, queries.data(), static_cast<int>(queries.size()),
                              memory_.ForHeads(shape_.head_dim));
  }
  KeyValueRows Rows() const {
    return {reinterpret_cast<const std::byte*>(keys_.data()), reinterpret_cast<const std::byte*>(values_.data()), 7,
            kPositions};
  }

  AttentionShape shape_;
  std::vector<uint16_t> keys_, values_;
  std::vector<float> vectors_;
  EmulatedTiles tiles_;
  AttentionScratchMemory memory_;
};

TEST_F(AttentionAmxTest, IsNearTheReference) {
  for (const int head_dim : {8, 32, 80, 128, 256}) {
    Use(head_dim);
    const KeyValueRows rows = Rows();
    for (const int count : {1, 2, 15, 16, 17, 33, 48, 64}) {
      std::vector<float> got(count * head_dim), want(count * head_dim);
      std::vector<AttentionQuery> queries;
      for (int i = 0; i < count; ++i) {
        queries.push_back(Query(i, got));
        AttendReference(shape_, {&rows, 1}, Query(i, want));
      }
      Attend(queries);
      // Softmax weights are rounded to 2^-9; values are seldom beyond 4.
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 4 * 2.0 / 512) << head_dim << " " << count;
    }
  }
}

TEST_F(AttentionAmxTest, BitsDoNotDependOnNeighbours) {
  for (const int head_dim : {24, 128}) {
    Use(head_dim);
    std::vector<float> alone(kMaxTileQueries * head_dim);
    for (int i = 0; i < kMaxTileQueries; ++i) Attend({Query(i, alone)});
    for (const int count : {2, 10, 16, 31, kMaxTileQueries}) {
      std::vector<float> together(alone.size(), NAN);
      for (int first = 0; first < kMaxTileQueries; first += count) {
        std::vector<AttentionQuery> queries;
        for (int i = first; i < std::min(first + count, kMaxTileQueries); ++i) queries.push_back(Query(i, together));
        Attend(queries);
      }
      EXPECT_EQ(together, alone) << head_dim << " " << count;
    }
  }
}

}  // namespace
}  // namespace baton

#endif
