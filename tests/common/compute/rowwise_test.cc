#include "common/compute/rowwise.h"

#include <gtest/gtest.h>

#include <bit>
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

// Gelu alone: with an "up" of ones.
std::vector<float> GeluOf(const std::vector<float>& x) {
  const std::vector<float> ones(x.size(), 1.0f);
  std::vector<float> y(x.size());
  GeluGate(x.data(), ones.data(), static_cast<int64_t>(x.size()), Rounding::kNone, y.data());
  return y;
}

TEST_P(RowwiseTest, GeluFollowsTheTanhForm) {
  std::vector<float> x;
  for (int i = -4000; i <= 4000; ++i) x.push_back(static_cast<float>(i) / 200.0f);
  const std::vector<float> y = GeluOf(x);
  for (size_t i = 0; i < x.size(); ++i) {
    EXPECT_NEAR(y[i], GeluReference(x[i]), 4e-7 * (1 + std::abs(x[i]))) << x[i];
    // 8 units in the last place where gelu does not all but vanish: for x << 0 it is an exponential of x^3.
    if (x[i] > -3) {
      EXPECT_NEAR(y[i], GeluReference(x[i]), 8 * 1.2e-7 * std::abs(GeluReference(x[i]))) << x[i];
    }
  }
}

TEST_P(RowwiseTest, AddRmsNormHasTheBitsOfItsSteps) {
  for (const int64_t n : kWidths) {
    for (const bool scaled : {false, true}) {
      const std::vector<float> update = RandomFloats(n, 1), update_scale = RandomFloats(n, 2);
      const std::vector<float> residual = RandomFloats(n, 3, 4.0f), scale = RandomFloats(n, 4);
      std::vector<float> want = update;
      if (scaled) RmsNorm(update.data(), update_scale.data(), 1e-6f, n, Rounding::kNone, want.data());
      for (int64_t i = 0; i < n; ++i) want[i] += residual[i];
      for (const Rounding rounding : {Rounding::kNone, Rounding::kBf16}) {
        std::vector<float> sum = residual, only_sum = residual, normed(n), want_normed(n);
        ResidualRow row = {update.data(), scaled ? update_scale.data() : nullptr, sum.data(), scale.data(),
                           normed.data()};
        AddRmsNorm(row, 1e-6f, n, rounding);
        RmsNorm(want.data(), scale.data(), 1e-6f, n, rounding, want_normed.data());
        EXPECT_EQ(sum, want);
        EXPECT_EQ(normed, want_normed);
        row.residual = only_sum.data();
        row.normed = nullptr;
        AddRmsNorm(row, 1e-6f, n, rounding);
        EXPECT_EQ(only_sum, want);
      }
    }
  }
}

TEST_P(RowwiseTest, StoresAsBf16) {
  for (const int64_t n : kWidths) {
    std::vector<float> x = RandomFloats(n, 1);
    x[n / 2] = std::bit_cast<float>(0x7f800001u);  // NaN whose upper half alone would be infinity
    std::vector<uint16_t> got(n + 1, 0xabcd);
    StoreAsBf16(x.data(), n, got.data());
    for (int64_t i = 0; i < n; ++i) EXPECT_EQ(got[i], FloatToBf16(x[i]));
    EXPECT_EQ(got[n], 0xabcd);
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
    EXPECT_NEAR(x[i], want, 5 * 1.2e-7 * std::abs(want)) << input[i];
  }
}

TEST_P(RowwiseTest, NaNIsNotHidden) {
  std::vector<float> x(33, 1.0f);
  x[32] = NAN;
  std::vector<float> capped = x;
  const std::vector<float> activated = GeluOf(x);
  SoftCap(30.0f, 33, capped.data());
  EXPECT_TRUE(std::isnan(capped[32]));
  EXPECT_TRUE(std::isnan(activated[32]));
}

// An element has the same bits in a vector and in a loop's tail.
TEST_P(RowwiseTest, ElementsDoNotDependOnTheirPlace) {
  const std::vector<float> values = RandomFloats(64, 5, 4.0f);
  std::vector<float> capped = values;
  SoftCap(20.0f, 64, capped.data());
  const std::vector<float> activated = GeluOf(values);
  for (int64_t i = 0; i < 64; ++i) {
    float one = values[i];
    SoftCap(20.0f, 1, &one);
    EXPECT_EQ(one, capped[i]);
    EXPECT_EQ(GeluOf({values[i]})[0], activated[i]);
  }
}

}  // namespace
}  // namespace baton
