// The building blocks of the kernels, per instruction set, against the C library in double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/compute/cpu_isa.h"

// g++ 12's own AVX-512 headers start from undefined registers on purpose.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif

#define BATON_ISA_BODY "tests/common/compute/vector_math_probe.inc"
#include "common/compute/each_isa.inc"

#include "tests/common/compute/isa_test_fixture.h"

namespace baton {
namespace {

class VectorMathTest : public IsaTest {
 protected:
  using Function = void (*)(const float*, int64_t, float*);

  // Largest error in units in the last place of the result, over `count` arguments in [low, high].
  static double WorstUlps(Function function, double (*exact)(double), float low, float high, int count = 100001) {
    std::vector<float> x(count), y(count);
    for (int i = 0; i < count; ++i) x[i] = low + (high - low) * static_cast<float>(i) / static_cast<float>(count - 1);
    function(x.data(), count, y.data());
    double worst = 0;
    for (int i = 0; i < count; ++i) {
      const double want = exact(x[i]);
      const float near = static_cast<float>(want);
      const double ulp = std::nextafter(std::abs(near), std::numeric_limits<float>::infinity()) - std::abs(near);
      worst = std::max(worst, std::abs(y[i] - want) / ulp);
    }
    return worst;
  }
};
BATON_INSTANTIATE_ISA_TEST(VectorMathTest);

TEST_P(VectorMathTest, ExpIsAccurate) {
  EXPECT_LE(WorstUlps(BATON_PICK_ISA(ExpAll), std::exp, -87.0f, 88.0f), 2.0);
  EXPECT_LE(WorstUlps(BATON_PICK_ISA(ExpAll), std::exp, -1.0f, 1.0f), 2.0);
}

TEST_P(VectorMathTest, ExpClampsAtTheEnds) {
  const float x[] = {-1e30f, -200.0f, 0.0f, 200.0f, -std::numeric_limits<float>::infinity()};
  float y[5];
  BATON_PICK_ISA(ExpAll)(x, 5, y);
  EXPECT_LT(y[0], 1.3e-38f);
  EXPECT_GE(y[0], 0.0f);
  EXPECT_LT(y[1], 1.3e-38f);
  EXPECT_EQ(y[2], 1.0f);
  EXPECT_TRUE(std::isfinite(y[3]) && y[3] > 2e38f);
  EXPECT_LT(y[4], 1.3e-38f);
}

TEST_P(VectorMathTest, Expm1IsAccurateNearZero) {
  EXPECT_LE(WorstUlps(BATON_PICK_ISA(Expm1All), std::expm1, -1e-6f, 1e-6f), 2.0);
  EXPECT_LE(WorstUlps(BATON_PICK_ISA(Expm1All), std::expm1, -0.3f, 0.3f), 2.5);
  EXPECT_LE(WorstUlps(BATON_PICK_ISA(Expm1All), std::expm1, -80.0f, -0.3f), 4.0);
}

TEST_P(VectorMathTest, TanhIsAccurate) {
  EXPECT_LE(WorstUlps(BATON_PICK_ISA(TanhAll), std::tanh, -0.625f, 0.625f), 6.0);
  EXPECT_LE(WorstUlps(BATON_PICK_ISA(TanhAll), std::tanh, -20.0f, 20.0f), 6.0);
  EXPECT_LE(WorstUlps(BATON_PICK_ISA(TanhAll), std::tanh, -1e-4f, 1e-4f), 3.0);
  EXPECT_LE(WorstUlps(BATON_PICK_ISA(TanhAll), std::tanh, -1e-30f, 1e-30f), 3.0);
}

TEST_P(VectorMathTest, TanhStaysWithinOne) {
  std::vector<float> x, y(4003);
  for (int i = 0; i < 4000; ++i) x.push_back(5.0f + 0.001f * static_cast<float>(i));
  for (const float large : {100.0f, 3e38f, std::numeric_limits<float>::infinity()}) x.push_back(large);
  BATON_PICK_ISA(TanhAll)(x.data(), 4003, y.data());
  for (int i = 0; i < 4003; ++i) EXPECT_LE(y[i], 1.0f) << x[i];
  EXPECT_GT(y[4002], 1.0f - 4e-7f);
}

TEST_P(VectorMathTest, SigmoidIsAccurate) {
  const auto sigmoid = [](double x) { return 1.0 / (1.0 + std::exp(-x)); };
  EXPECT_LE(WorstUlps(BATON_PICK_ISA(SigmoidAll), sigmoid, -80.0f, 80.0f), 3.0);
  EXPECT_LE(WorstUlps(BATON_PICK_ISA(SigmoidAll), sigmoid, -2.0f, 2.0f), 3.0);
}

TEST_P(VectorMathTest, ExpOrZeroVanishes) {
  const float x[] = {-1e30f, -88.0f, 0.0f, -std::numeric_limits<float>::infinity(), -5.0f};
  float y[5], exact[5];
  BATON_PICK_ISA(ExpOrZeroAll)(x, 5, y);
  BATON_PICK_ISA(ExpAll)(x, 5, exact);
  for (const int i : {0, 1, 3}) EXPECT_EQ(y[i], 0.0f);
  for (const int i : {2, 4}) EXPECT_EQ(y[i], exact[i]);
}

TEST_P(VectorMathTest, NaNStays) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  for (const Function function : {BATON_PICK_ISA(ExpAll), BATON_PICK_ISA(ExpOrZeroAll), BATON_PICK_ISA(Expm1All),
                                  BATON_PICK_ISA(TanhAll), BATON_PICK_ISA(SigmoidAll), BATON_PICK_ISA(RoundAll)}) {
    float y = 0;
    function(&nan, 1, &y);
    EXPECT_TRUE(std::isnan(y));
  }
}

TEST_P(VectorMathTest, RoundsLikeTheScalarForm) {
  std::vector<float> x;
  for (uint32_t bits = 0; bits < 0x8000; ++bits) {
    for (const uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
      const float value = std::bit_cast<float>(bits << 16 | low);
      if (!std::isnan(value)) x.push_back(value);
    }
  }
  std::vector<float> y(x.size());
  BATON_PICK_ISA(RoundAll)(x.data(), static_cast<int64_t>(x.size()), y.data());
  for (size_t i = 0; i < x.size(); ++i) ASSERT_EQ(y[i], RoundToBf16(x[i])) << x[i];
}

TEST_P(VectorMathTest, TailsHaveTheSameBitsAsVectors) {
  std::vector<float> x(67), y(67);
  for (int i = 0; i < 67; ++i) x[i] = -5.0f + 0.15f * static_cast<float>(i);
  for (const Function function :
       {BATON_PICK_ISA(ExpAll), BATON_PICK_ISA(Expm1All), BATON_PICK_ISA(TanhAll), BATON_PICK_ISA(SigmoidAll)}) {
    function(x.data(), 67, y.data());
    for (int i = 0; i < 67; ++i) {
      float one;
      function(&x[i], 1, &one);
      EXPECT_EQ(one, y[i]);
    }
  }
}

}  // namespace
}  // namespace baton
