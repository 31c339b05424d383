#include "common/compute/packed_matrix.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "common/compute/cpu_isa.h"
#include "tests/common/compute/packed_test_matrix.h"
#include "tests/common/compute/random_values.h"

namespace baton {
namespace {

using testing::Each;
using testing::HasSubstr;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr WeightPrecision kQuantized[] = {WeightPrecision::kInt8, WeightPrecision::kInt4, WeightPrecision::kInt8A8};

float Magnitude(const std::vector<float>& values) {
  float magnitude = 0;
  for (const float value : values) magnitude = std::max(magnitude, std::fabs(value));
  return magnitude;
}

// Root of the mean square error over that of the values.
double RelativeError(const std::vector<float>& want, const std::vector<float>& got) {
  double error = 0, power = 0;
  for (size_t i = 0; i < want.size(); ++i) {
    error += std::pow(double{want[i]} - got[i], 2);
    power += std::pow(double{want[i]}, 2);
  }
  return std::sqrt(error / power);
}

TEST(WeightPrecisionTest, NamesAreParsedBack) {
  for (const WeightPrecision precision : kAllPrecisions) {
    EXPECT_EQ(*ParseWeightPrecision(WeightPrecisionName(precision)), precision);
  }
  EXPECT_THAT(std::string(ParseWeightPrecision("int3").status().message()), HasSubstr("int4"));
}

TEST(PackedMatrixTest, TakesTheBytesItSays) {
  EXPECT_EQ(PackedBytes(WeightPrecision::kF32, 3, 5), 64);
  EXPECT_EQ(PackedBytes(WeightPrecision::kBf16, 9216, 2304), 9216 * 2304 * 2);
  EXPECT_EQ(PackedBytes(WeightPrecision::kBf16, 17, 33), 32 * 64 * 2);
  EXPECT_EQ(PackedBytes(WeightPrecision::kInt8, 9216, 2304), 9216 * (2304 + 4));
  EXPECT_EQ(PackedBytes(WeightPrecision::kInt4, 9216, 2304), 9216 * 2304 / 2 + 9216 * 2304 / 64 * 2);
  for (const WeightPrecision precision : kAllPrecisions) {
    for (const int64_t outputs : {1, 16, 37}) {
      for (const int64_t inputs : {1, 31, 32, 129}) {
        EXPECT_EQ(PackedBytes(precision, outputs, inputs) % kPackedAlignment, 0);
      }
    }
  }
}

TEST(PackedMatrixTest, FloatsComeBackExactlyAndBf16Rounded) {
  const int64_t outputs = 35, inputs = 67;
  const std::vector<float> w = RandomFloats(outputs * inputs, 1);
  const PackedTestMatrix f32(WeightPrecision::kF32, outputs, inputs, w);
  const PackedTestMatrix bf16(WeightPrecision::kBf16, outputs, inputs, w);
  for (int64_t o = 0; o < outputs; ++o) {
    const std::vector<float> want(w.begin() + o * inputs, w.begin() + (o + 1) * inputs);
    EXPECT_EQ(f32.Row(o), want);
    EXPECT_EQ(bf16.Row(o), RoundedToBf16(want));
  }
}

TEST(PackedMatrixTest, Int8IsWithinHalfAStep) {
  const int64_t outputs = 19, inputs = 77;
  for (const WeightPrecision precision : {WeightPrecision::kInt8, WeightPrecision::kInt8A8}) {
    const std::vector<float> w = RandomFloats(outputs * inputs, 2);
    const PackedTestMatrix packed(precision, outputs, inputs, w);
    for (int64_t o = 0; o < outputs; ++o) {
      const std::vector<float> want(w.begin() + o * inputs, w.begin() + (o + 1) * inputs);
      const std::vector<float> got = packed.Row(o);
      const float half_step = Magnitude(want) / 254;
      for (int64_t i = 0; i < inputs; ++i) EXPECT_NEAR(got[i], want[i], half_step * 1.0001f);
    }
  }
}

// What the table and the choice of scales promise for normally distributed weights; even steps would give 0.09.
TEST(PackedMatrixTest, Int4ErrorOfNormalWeights) {
  const int64_t inputs = 64 * 500;
  const std::vector<float> w = RandomFloats(inputs, 3, 0.02f);
  const PackedTestMatrix packed(WeightPrecision::kInt4, 1, inputs, w);
  EXPECT_LT(RelativeError(w, packed.Row(0)), 0.082);
}

TEST(PackedMatrixTest, ZerosOfEitherSignComeBackAsZero) {
  for (const WeightPrecision precision : kAllPrecisions) {
    std::vector<float> w(40, 0.0f);
    for (size_t i = 0; i < w.size(); i += 3) w[i] = -0.0f;
    EXPECT_THAT(PackedTestMatrix(precision, 1, 40, w).Row(0), Each(0.0f)) << WeightPrecisionName(precision);
    w[7] = 1.0f;
    const std::vector<float> row = PackedTestMatrix(precision, 1, 40, w).Row(0);
    for (size_t i = 0; i < w.size(); ++i) EXPECT_NEAR(row[i], w[i], 0.01f) << i;
    EXPECT_EQ(row[3], 0.0f);
  }
}

TEST(PackedMatrixTest, EqualWeightsComeBackAlmostExactly) {
  for (const WeightPrecision precision : kAllPrecisions) {
    for (const float value : {0.75f, -0.75f, 3e-5f, -1e20f}) {
      const std::vector<float> row = PackedTestMatrix(precision, 2, 130, std::vector<float>(260, value)).Row(1);
      for (const float got : row) EXPECT_NEAR(got / value, 1.0f, 1.0f / 256) << WeightPrecisionName(precision);
    }
  }
}

// An outlier costs the weights that share its scale, and no others.
TEST(PackedMatrixTest, OutliersStayInTheirRowOrGroup) {
  const int64_t inputs = 256;
  std::vector<float> w = RandomFloats(2 * inputs, 4);
  w[70] = 1e6f;
  const PackedTestMatrix int8(WeightPrecision::kInt8, 2, inputs, w);
  EXPECT_NEAR(int8.Row(0)[70], 1e6f, 1.0f);
  EXPECT_LT(RelativeError({w.begin() + inputs, w.end()}, int8.Row(1)), 0.01);
  const PackedTestMatrix int4(WeightPrecision::kInt4, 2, inputs, w);
  const std::vector<float> row = int4.Row(0);
  EXPECT_NEAR(row[70] / 1e6f, 1.0f, 1.0f / 256);
  EXPECT_LT(RelativeError({w.begin(), w.begin() + 64}, {row.begin(), row.begin() + 64}), 0.1);
  EXPECT_LT(RelativeError({w.begin() + 128, w.begin() + inputs}, {row.begin() + 128, row.end()}), 0.1);
}

TEST(PackedMatrixTest, WeightsTooSmallForAScaleBecomeZero) {
  for (const WeightPrecision precision : kQuantized) {
    EXPECT_THAT(PackedTestMatrix(precision, 1, 64, std::vector<float>(64, 1e-39f)).Row(0), Each(0.0f));
    const std::vector<float> small = PackedTestMatrix(precision, 1, 64, std::vector<float>(64, 1e-34f)).Row(0);
    for (const float value : small) EXPECT_NEAR(value * 1e34f, 1.0f, 0.01f);
  }
}

TEST(PackedMatrixTest, QuantisationRefusesWhatIsNotFinite) {
  for (const WeightPrecision precision : kQuantized) {
    for (const float bad : {kInfinity, -kInfinity, std::nanf("")}) {
      std::vector<float> w = RandomFloats(50 * 33, 5);
      w[21 * 33 + 4] = bad;
      w[40 * 33] = bad;
      const PackedTestMatrix packed(precision, 50, 33, w, 2);
      EXPECT_EQ(packed.status().code(), absl::StatusCode::kInvalidArgument);
      EXPECT_THAT(std::string(packed.status().message()), HasSubstr("row 21 "));
    }
  }
}

TEST(PackedMatrixTest, UnquantisedWeightsKeepWhatIsNotFinite) {
  for (const WeightPrecision precision : {WeightPrecision::kF32, WeightPrecision::kBf16}) {
    const PackedTestMatrix packed(precision, 1, 3, {kInfinity, 1.0f, std::nanf("")});
    ASSERT_TRUE(packed.status().ok());
    EXPECT_EQ(packed.Row(0)[0], kInfinity);
    EXPECT_TRUE(std::isnan(packed.Row(0)[2]));
  }
}

TEST(PackedMatrixTest, ThreadsChangeNoByte) {
  const int64_t outputs = 70, inputs = 200;
  const std::vector<float> w = RandomFloats(outputs * inputs, 6);
  for (const WeightPrecision precision : kAllPrecisions) {
    const PackedTestMatrix one(precision, outputs, inputs, w, 1), three(precision, outputs, inputs, w, 3);
    EXPECT_TRUE(one.bytes() == three.bytes()) << WeightPrecisionName(precision);
  }
}

// A cache file may be written by one kind of CPU and read by another.
TEST(PackedMatrixTest, InstructionSetsChangeNoByte) {
  const int64_t outputs = 20, inputs = 640;
  const std::vector<float> w = RandomFloats(outputs * inputs, 7);
  for (const WeightPrecision precision : kAllPrecisions) {
    SetIsaForTesting(Isa::kPortable);
    const PackedTestMatrix want(precision, outputs, inputs, w);
    for (const Isa isa : SupportedIsas()) {
      SetIsaForTesting(isa);
      EXPECT_TRUE(PackedTestMatrix(precision, outputs, inputs, w).bytes() == want.bytes())
          << WeightPrecisionName(precision) << " " << IsaName(isa);
    }
  }
}

TEST(PackedMatrixTest, EveryRowIsReadOnce) {
  ThreadPool pool({.threads = 2});
  std::vector<int> reads(45);
  std::vector<std::byte> to(PackedBytes(WeightPrecision::kInt4, 45, 10));
  ASSERT_TRUE(PackMatrix(
                  pool, WeightPrecision::kInt4, 45, 10,
                  [&](int64_t output, absl::Span<float> row) {
                    ++reads[output];
                    EXPECT_EQ(row.size(), 10u);
                    std::fill(row.begin(), row.end(), 1.0f);
                  },
                  to.data())
                  .ok());
  EXPECT_THAT(reads, Each(1));
}

}  // namespace
}  // namespace baton
