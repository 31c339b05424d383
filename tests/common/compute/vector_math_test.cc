// The building blocks of the kernels, per instruction set, against the C library in double precision.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/compute/cpu_isa.h"

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
  EXPECT_LE(WorstUlps(BATON_PICK_ISA(TanhAll), std::tanh, -0.625f, 0.625f), 2.5);
  EXPECT_LE(WorstUlps(BATON_PICK_ISA(TanhAll), std::tanh, -20.0f, 20.0f), 2.5);
  EXPECT_LE(WorstUlps(BATON_PICK_ISA(TanhAll), std::tanh, -1e-4f, 1e-4f), 1.5);
}

TEST_P(VectorMathTest, TailsHaveTheSameBitsAsVectors) {
  std::vector<float> x(67), y(67);
  for (int i = 0; i < 67; ++i) x[i] = -5.0f + 0.15f * static_cast<float>(i);
  for (const Function function : {BATON_PICK_ISA(ExpAll), BATON_PICK_ISA(Expm1All), BATON_PICK_ISA(TanhAll)}) {
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
