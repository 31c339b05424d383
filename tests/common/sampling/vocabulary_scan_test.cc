#include "common/sampling/vocabulary_scan.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "common/sampling/top_k.h"
#include "tests/common/compute/isa_test_fixture.h"

namespace baton {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kMost = std::numeric_limits<float>::max();

std::vector<float> RandomLogits(size_t count, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0, 8);
  std::vector<float> logits(count);
  for (float& logit : logits) logit = normal(random);
  return logits;
}

constexpr size_t kSizes[] = {1, 2, 15, 16, 17, 63, 64, 65, 4095, 4097, 10000};

class VocabularyScanTest : public IsaTest {};
BATON_INSTANTIATE_ISA_TEST(VocabularyScanTest);

TEST_P(VocabularyScanTest, FindsTheLargestWhereverItIs) {
  for (const size_t size : kSizes) {
    std::vector<float> logits = RandomLogits(size, 1);
    const LargestLogit want = FindLargestReference(logits);
    EXPECT_EQ(FindLargest(logits).id, want.id);
    EXPECT_EQ(FindLargest(logits).logit, want.logit);
    EXPECT_EQ(LargestAndSumExp(logits).largest.id, want.id);
    for (size_t id = 0; id < size; id += 1 + size / 50) {
      const float before = std::exchange(logits[id], 100.0f);
      EXPECT_EQ(FindLargest(logits).id, static_cast<int32_t>(id));
      EXPECT_EQ(LargestAndSumExp(logits).largest.id, static_cast<int32_t>(id));
      logits[id] = before;
    }
  }
}

TEST_P(VocabularyScanTest, TheLowestIdWinsTies) {
  for (const size_t size : kSizes) {
    const std::vector<float> equal(size, -3.0f);
    EXPECT_EQ(FindLargest(equal).id, 0);
    EXPECT_EQ(LargestAndSumExp(equal).largest.id, 0);
    std::vector<float> logits(size, -4.0f);
    for (size_t id = size / 3; id < size; ++id) logits[id] = -3.0f;
    EXPECT_EQ(FindLargest(logits).id, static_cast<int32_t>(size / 3));
    EXPECT_EQ(LargestAndSumExp(logits).largest.id, static_cast<int32_t>(size / 3));
  }
}

TEST_P(VocabularyScanTest, NaNAndInfinities) {
  const std::vector<float> logits = {kNan, -kInfinity, 1.0f, kMost, kInfinity, kNan};
  EXPECT_EQ(FindLargest(logits).id, 3);  // +infinity counts as the largest float, and comes later
  EXPECT_EQ(FindLargest(logits).logit, kMost);
  EXPECT_EQ(LargestAndSumExp(logits).largest.id, 3);
  EXPECT_EQ(LargestAndSumExp(logits).sum, 2.0);
  for (const float excluded : {kNan, -kInfinity}) {
    const std::vector<float> none(33, excluded);
    EXPECT_EQ(FindLargest(none).id, -1);
    EXPECT_EQ(FindLargest(none).logit, kExcludedLogit);
    EXPECT_EQ(LargestAndSumExp(none).largest.id, -1);
    EXPECT_EQ(LargestAndSumExp(none).sum, 0.0);
    EXPECT_EQ(NextBetween(none, 0, -kMost, kInfinity), none.size());
  }
  EXPECT_EQ(FindLargest({}).id, -1);
  EXPECT_EQ(LargestAndSumExp({}).sum, 0.0);
  EXPECT_EQ(NextBetween({}, 0, -kMost, kMost), 0u);
  std::vector<float> clean(logits.size());
  CleanLogits(logits, absl::MakeSpan(clean));
  EXPECT_EQ(clean, (std::vector<float>{-kInfinity, -kInfinity, 1.0f, kMost, kMost, -kInfinity}));
}

TEST_P(VocabularyScanTest, SumsAreNearTheReference) {
  for (const size_t size : kSizes) {
    std::vector<float> logits = RandomLogits(size, 2);
    if (size > 2) logits[size / 2] = kNan;
    const LargestLogit largest = FindLargestReference(logits);
    const double want = SumExpReference(logits, largest.logit, 1.0f);
    EXPECT_NEAR(SumExp(logits, largest.logit, 1.0f), want, 5e-7 * want);
    EXPECT_NEAR(LargestAndSumExp(logits).sum, want, 5e-7 * want);
    const double cold = SumExpReference(logits, largest.logit, 10.0f);
    EXPECT_NEAR(SumExp(logits, largest.logit, 10.0f), cold, 5e-6 * cold);
  }
}

// Each piece of the pass may raise the maximum.
TEST_P(VocabularyScanTest, SumsSurviveARisingMaximum) {
  std::vector<float> logits(20000);
  for (size_t i = 0; i < logits.size(); ++i) logits[i] = -1000.0f + 0.05f * static_cast<float>(i);
  const double want = SumExpReference(logits, logits.back(), 1.0f);
  EXPECT_NEAR(LargestAndSumExp(logits).sum, want, 5e-7 * want);
}

TEST_P(VocabularyScanTest, NextBetweenVisitsExactlyWhatIsInRange) {
  for (const size_t size : kSizes) {
    std::vector<float> logits = RandomLogits(size, 3);
    if (size > 4) {
      logits[1] = kNan;
      logits[3] = kInfinity;
    }
    for (const auto& [low, high] : {std::pair{-2.0f, 3.0f}, {0.0f, kInfinity}, {logits[0], logits[0]}, {3.0f, -2.0f}}) {
      std::vector<size_t> want, got;
      for (size_t id = 0; id < size; ++id) {
        if (CleanLogit(logits[id]) >= low && CleanLogit(logits[id]) <= high) want.push_back(id);
      }
      for (size_t id = NextBetween(logits, 0, low, high); id < size; id = NextBetween(logits, id + 1, low, high)) {
        got.push_back(id);
      }
      EXPECT_EQ(got, want);
    }
  }
}

TEST_P(VocabularyScanTest, TopKIsAFullSort) {
  for (const size_t size : kSizes) {
    std::vector<float> logits = RandomLogits(size, 4);
    for (size_t i = 0; i < size; i += 3) logits[i] = std::round(logits[i]);  // ties
    if (size > 16) logits[7] = kNan;
    std::vector<ScoredToken> sorted;
    for (size_t id = 0; id < size; ++id) {
      if (!std::isnan(logits[id])) sorted.push_back({logits[id], static_cast<int32_t>(id)});
    }
    std::sort(sorted.begin(), sorted.end(), IsBefore);
    for (const size_t k : {size_t{1}, size_t{5}, size_t{64}, size}) {
      std::vector<ScoredToken> best;
      TopK(logits, k, best);
      ASSERT_EQ(best.size(), std::min(k, sorted.size()));
      for (size_t i = 0; i < best.size(); ++i) EXPECT_EQ(best[i].id, sorted[i].id);
    }
  }
}

}  // namespace
}  // namespace baton
