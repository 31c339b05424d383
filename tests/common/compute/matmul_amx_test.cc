// The AMX kernels over an emulation of tiles, on CPUs that have AVX512-BF16 but no AMX; where there is AMX, MatMulTest
// runs them on it.
#include <gtest/gtest.h>

#if defined(__x86_64__)

#include <algorithm>
#include <cmath>
#include <cstring>
#include <type_traits>
#include <vector>

#include "common/compute/cpu_isa.h"
#include "common/compute/matmul_codes.inc"
#include "tests/common/compute/emulated_tiles.h"
#include "tests/common/compute/packed_test_matrix.h"
#include "tests/common/compute/random_values.h"

namespace baton {
namespace {

#include "common/compute/matmul_amx.inc"

constexpr WeightPrecision kPrecisions[] = {WeightPrecision::kBf16, WeightPrecision::kInt8, WeightPrecision::kInt4};

class MatMulAmxTest : public testing::TestWithParam<WeightPrecision> {
 protected:
  void SetUp() override {
    if (SupportedIsas().back() < Isa::kAvx512Bf16) GTEST_SKIP() << "needs AVX512-BF16";
  }

  // y of all rows, by one block.
  std::vector<float> MatMul(const PackedMatrix& weights, const float* bias, const MatMulRows& x) {
    std::vector<float> y(x.rows * weights.outputs);
    Block(weights, bias, x, {0, GroupCount(weights.outputs), 0, x.rows}, y.data());
    return y;
  }
  void Block(const PackedMatrix& weights, const float* bias, const MatMulRows& x, const MatMulBlock& block, float* y) {
    MatMulTask task;
    task.weights = weights;
    task.group_bytes = GroupBytes(weights.precision, weights.inputs);
    task.padded_inputs = PaddedInputs(weights.precision, weights.inputs);
    std::vector<uint32_t> pairs(x.rows * task.padded_inputs / 2);
    for (int64_t r = 0; r < x.rows; ++r) {
      PairRowAvx512Bf16(x.data + r * x.stride, weights.inputs, task.padded_inputs,
                        pairs.data() + r * task.padded_inputs / 2);
    }
    task.x = pairs.data();
    task.bias = bias;
    task.y = y;
    task.y_stride = weights.outputs;
    MatMulTiles(tiles_, task, block, scratch_);
  }

 private:
  EmulatedTiles tiles_;
  MatMulScratch scratch_;
};
INSTANTIATE_TEST_SUITE_P(, MatMulAmxTest, testing::ValuesIn(kPrecisions),
                         [](const testing::TestParamInfo<WeightPrecision>& info) {
                           return std::string(WeightPrecisionName(info.param));
                         });

TEST_P(MatMulAmxTest, IsNearTheReference) {
  struct Shape {
    int64_t rows, inputs, outputs;
  };
  for (const Shape& shape : {Shape{1, 16, 1}, Shape{1, 700, 150}, Shape{5, 31, 33}, Shape{16, 513, 64},
                             Shape{17, 130, 49}, Shape{32, 1100, 16}, Shape{33, 64, 80}, Shape{70, 545, 35}}) {
    SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.inputs << " x " << shape.outputs);
    const PackedTestMatrix w(GetParam(), shape.outputs, shape.inputs, RandomFloats(shape.outputs * shape.inputs, 1));
    const std::vector<float> x = RoundedToBf16(RandomFloats(shape.rows * shape.inputs, 2));
    const std::vector<float> bias = RandomFloats(shape.outputs, 3);
    for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
      const MatMulRows rows = {x.data(), shape.inputs, shape.rows};
      const std::vector<float> got = MatMul(w.matrix(), b, rows);
      std::vector<float> want(got.size());
      MatMulReference(w.matrix(), b, rows, want.data(), shape.outputs);
      // Values of about 1: sums of about sqrt(inputs), each addition rounded to 2^-24 of the sum so far.
      const float tolerance = static_cast<float>(shape.inputs) * 0x1p-20f;
      for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], tolerance) << i;
    }
  }
}

TEST_P(MatMulAmxTest, RowsDoNotDependOnTheBatch) {
  const int64_t inputs = 1331, outputs = 87, rows = 40;
  const PackedTestMatrix w(GetParam(), outputs, inputs, RandomFloats(outputs * inputs, 1));
  const std::vector<float> x = RoundedToBf16(RandomFloats(rows * inputs, 2));
  const std::vector<float> bias = RandomFloats(outputs, 3);
  const std::vector<float> all = MatMul(w.matrix(), bias.data(), {x.data(), inputs, rows});
  for (int64_t count = 1; count < rows; ++count) {
    for (const int64_t first : {int64_t{0}, rows - count}) {
      const std::vector<float> some = MatMul(w.matrix(), bias.data(), {x.data() + first * inputs, inputs, count});
      ASSERT_EQ(std::memcmp(some.data(), all.data() + first * outputs, some.size() * sizeof(float)), 0)
          << count << " rows from " << first;
    }
  }
}

TEST_P(MatMulAmxTest, BlocksMakeUpTheWhole) {
  const int64_t inputs = 200, outputs = 170, rows = 37;
  const PackedTestMatrix w(GetParam(), outputs, inputs, RandomFloats(outputs * inputs, 1));
  const std::vector<float> x = RoundedToBf16(RandomFloats(rows * inputs, 2));
  const MatMulRows all = {x.data(), inputs, rows};
  std::vector<float> y(rows * outputs);
  for (const auto& [first_group, groups] : {std::pair<int64_t, int64_t>{0, 5}, {5, 1}, {6, 5}}) {
    Block(w.matrix(), nullptr, all, {first_group, groups, 0, 20}, y.data());
    Block(w.matrix(), nullptr, all, {first_group, groups, 20, 17}, y.data());
  }
  EXPECT_EQ(y, MatMul(w.matrix(), nullptr, all));
}

}  // namespace
}  // namespace baton

#endif
