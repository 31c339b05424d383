#include "common/compute/rowwise.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/common/compute/isa_test_fixture.h"
#include "tests/common/compute/random_values.h"

namespace baton {
namespace {

constexpr int64_t kWidths[] = {1, 15, 16, 17, 96, 2304};

class RowwiseTest : public IsaTest {};
BATON_INSTANTIATE_ISA_TEST(RowwiseTest);

TEST_P(RowwiseTest, RmsNormIsNearTheReference) {
  for (const int64_t n : kWidths) {
    const std::vector<float> x = RandomFloats(n, 1, 3.0f);
    const std::vector<float> scale = RandomFloats(n, 2);
    std::vector<float> got(n), want(n);
    RmsNorm(x.data(), scale.data(), 1e-6f, n, Rounding::kNone, got.data());
    RmsNormReference(x.data(), scale.data(), 1e-6f, n, want.data());
    for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(got[i], want[i], 2e-6 * (1 + std::abs(want[i])));

    std::vector<float> rounded(n);
    RmsNorm(x.data(), scale.data(), 1e-6f, n, Rounding::kBf16, rounded.data());
    EXPECT_EQ(rounded, RoundedToBf16(got));

    std::vector<float> in_place = x;
    RmsNorm(in_place.data(), scale.data(), 1e-6f, n, Rounding::kNone, in_place.data());
    EXPECT_EQ(in_place, got);
  }
}

TEST_P(RowwiseTest, RmsNormOfZerosIsZero) {
  std::vector<float> x(20, 0.0f);
  const std::vector<float> scale(20, 2.0f);
  RmsNorm(x.data(), scale.data(), 1e-6f, 20, Rounding::kNone, x.data());
  for (const float value : x) EXPECT_EQ(value, 0.0f);
}

TEST_P(RowwiseTest, GeluFollowsTheTanhForm) {
  std::vector<float> x;
  for (int i = -4000; i <= 4000; ++i) x.push_back(static_cast<float>(i) / 200.0f);
  const std::vector<float> input = x;
  Gelu(static_cast<int64_t>(x.size()), x.data());
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_NEAR(x[i], GeluReference(input[i]), 4e-7 * (1 + std::abs(input[i]))) << input[i];
  }
}

TEST_P(RowwiseTest, GeluGateMultipliesAndRounds) {
  for (const int64_t n : kWidths) {
    const std::vector<float> gate = RandomFloats(n, 1, 2.0f);
    const std::vector<float> up = RandomFloats(n, 2);
    std::vector<float> exact(n), rounded = gate;
    GeluGate(gate.data(), up.data(), n, Rounding::kNone, exact.data());
    for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(exact[i], GeluReference(gate[i]) * up[i], 1e-5);
    GeluGate(rounded.data(), up.data(), n, Rounding::kBf16, rounded.data());  // in place
    EXPECT_EQ(rounded, RoundedToBf16(exact));
  }
}

TEST_P(RowwiseTest, SoftCapIsAccurateNearZeroAndSaturates) {
  std::vector<float> x = {0.0f, 1e-20f, 1e-6f, -1e-3f, 0.3f, -5.0f, 18.7f, -18.8f, 29.0f, 80.0f, -1e4f, 3e38f};
  const std::vector<float> input = x;
  SoftCap(30.0f, static_cast<int64_t>(x.size()), x.data());
  for (size_t i = 0; i < x.size(); ++i) {
    const double want = SoftCapReference(30.0, input[i]);
    EXPECT_NEAR(x[i], want, 5e-7 * std::abs(want)) << input[i];
  }
}

TEST_P(RowwiseTest, NaNIsNotHidden) {
  std::vector<float> x(33, 1.0f);
  x[32] = NAN;
  std::vector<float> capped = x, activated = x, rounded = x;
  SoftCap(30.0f, 33, capped.data());
  Gelu(33, activated.data());
  RoundRow(33, rounded.data());
  EXPECT_TRUE(std::isnan(capped[32]));
  EXPECT_TRUE(std::isnan(activated[32]));
  EXPECT_TRUE(std::isnan(rounded[32]));
}

// An element has the same bits in a vector and in a loop's tail.
TEST_P(RowwiseTest, ElementsDoNotDependOnTheirPlace) {
  const std::vector<float> values = RandomFloats(64, 5, 4.0f);
  std::vector<float> capped = values, activated = values;
  SoftCap(20.0f, 64, capped.data());
  Gelu(64, activated.data());
  for (int64_t i = 0; i < 64; ++i) {
    float one = values[i], two = values[i];
    SoftCap(20.0f, 1, &one);
    Gelu(1, &two);
    EXPECT_EQ(one, capped[i]);
    EXPECT_EQ(two, activated[i]);
  }
}

TEST_P(RowwiseTest, AddToAdds) {
  const std::vector<float> x = RandomFloats(37, 1);
  std::vector<float> y = RandomFloats(37, 2);
  const std::vector<float> before = y;
  AddTo(x.data(), 37, y.data());
  for (int i = 0; i < 37; ++i) EXPECT_EQ(y[i], before[i] + x[i]);
}

}  // namespace
}  // namespace baton
