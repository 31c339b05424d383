// What each precision of the weights may cost. The bounds are about a third above what was measured (bench/RESULTS.md):
// room for other instruction sets' rounding, none for a broken scale.
#include "tests/golden/quantisation_error.h"

#include <gtest/gtest.h>

#include <string>
#include <tuple>

namespace baton {
namespace {

struct ErrorBound {
  double mean_logit;
  double mean_kl;
  double perplexity;  // relative to float32's
  double exact;       // share of answers
};

ErrorBound BoundOf(WeightPrecision weights) {
  switch (weights) {
    case WeightPrecision::kF32:
      return {.mean_logit = 0, .mean_kl = 0, .perplexity = 1e-4, .exact = 0.95};
    case WeightPrecision::kBf16:
      return {.mean_logit = 0.13, .mean_kl = 0.008, .perplexity = 0.002, .exact = 0.85};
    case WeightPrecision::kInt8:
      return {.mean_logit = 0.21, .mean_kl = 0.02, .perplexity = 0.003, .exact = 0.85};
    case WeightPrecision::kInt8A8:
      return {.mean_logit = 0.31, .mean_kl = 0.045, .perplexity = 0.003, .exact = 0.85};
    case WeightPrecision::kInt4:
      return {.mean_logit = 2.2, .mean_kl = 2, .perplexity = 0.03, .exact = 0.7};
  }
  return {};
}

constexpr WeightPrecision kPrecisions[] = {WeightPrecision::kF32, WeightPrecision::kBf16, WeightPrecision::kInt8,
                                           WeightPrecision::kInt8A8, WeightPrecision::kInt4};

using Case = std::tuple<std::string, WeightPrecision>;

std::string CaseName(const testing::TestParamInfo<Case>& info) {
  std::string name = std::get<0>(info.param) + "_" + std::string(WeightPrecisionName(std::get<1>(info.param)));
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
}

class GoldenErrorTest : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, GoldenErrorTest,
                         testing::Combine(testing::Values("gemma-tiny", "gemma2-tiny", "recurrentgemma-tiny"),
                                          testing::ValuesIn(kPrecisions)),
                         CaseName);

TEST_P(GoldenErrorTest, IsWithinItsBound) {
  const auto& [name, weights] = GetParam();
  const ErrorBound bound = BoundOf(weights);
  const auto error = MeasureGoldenError(name, weights);
  ASSERT_TRUE(error.ok()) << error.status();
  EXPECT_GT(error->positions, 100);
  EXPECT_LE(error->mean_logit, bound.mean_logit);
  EXPECT_LE(error->mean_kl, bound.mean_kl);
  if (weights != WeightPrecision::kF32) {
    EXPECT_GT(error->mean_logit, 0) << "this can't be exact: was it float32 after all?";
  }
}

class TrainedErrorTest : public testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, TrainedErrorTest,
                         testing::Combine(testing::Values("tiny-gemma2", "tiny-recurrentgemma"),
                                          testing::ValuesIn(kPrecisions)),
                         CaseName);

TEST_P(TrainedErrorTest, IsWithinItsBound) {
  const auto& [name, weights] = GetParam();
  const ErrorBound bound = BoundOf(weights);
  const auto error = MeasureTrainedError(name, weights);
  ASSERT_TRUE(error.ok()) << error.status();
  EXPECT_LE(error->perplexity, error->stored_perplexity * (1 + bound.perplexity));
  EXPECT_GE(static_cast<double>(error->exact), bound.exact * static_cast<double>(error->prompts));
}

}  // namespace
}  // namespace baton
