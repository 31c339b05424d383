#include "common/compute/matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "tests/common/compute/isa_test_fixture.h"
#include "tests/common/compute/packed_test_matrix.h"
#include "tests/common/compute/random_values.h"

namespace baton {
namespace {

struct Shape {
  int64_t rows, inputs, outputs;
};

// Odd sizes, tails of every tile, one row and many.
constexpr Shape kShapes[] = {{1, 16, 1},   {1, 96, 512},   {2, 15, 7},   {3, 24, 33},   {5, 1, 2},      {6, 112, 4},
                             {7, 130, 65}, {13, 256, 5},   {29, 48, 16}, {64, 31, 19},  {150, 200, 9},  {40, 2304, 12},
                             {9, 700, 80}, {33, 1030, 49}, {12, 64, 64}, {17, 129, 97}, {300, 520, 130}};

constexpr WeightPrecision kBatchInvariant[] = {WeightPrecision::kBf16, WeightPrecision::kInt8, WeightPrecision::kInt4,
                                               WeightPrecision::kInt8A8};

std::vector<float> Activations(WeightPrecision precision, int64_t count, uint32_t seed) {
  std::vector<float> x = RandomFloats(count, seed);
  return precision == WeightPrecision::kF32 ? x : RoundedToBf16(std::move(x));
}

// How far a sum in float32 may be from the exact one: every addition rounds by at most half an ulp of a partial sum,
// and no partial sum exceeds the sum of magnitudes. int8a8 rounds each activation to a step of a 127th of the largest.
float Tolerance(const PackedMatrix& weights, int64_t output, const float* x, float bias) {
  std::vector<float> row(weights.inputs);
  UnpackRow(weights, output, absl::MakeSpan(row));
  double magnitudes = std::fabs(bias), weight_sum = 0, largest = 0;
  for (int64_t i = 0; i < weights.inputs; ++i) {
    magnitudes += std::fabs(double{row[i]} * x[i]);
    weight_sum += std::fabs(row[i]);
    largest = std::max(largest, std::fabs(double{x[i]}));
  }
  double tolerance = magnitudes * static_cast<double>(weights.inputs + 4) * 0x1p-24;
  if (weights.precision == WeightPrecision::kInt8A8) tolerance += weight_sum * largest / 254 * 1.001;
  return static_cast<float>(tolerance);
}

class MatMulTest : public IsaTest {};
BATON_INSTANTIATE_ISA_TEST(MatMulTest);

TEST_P(MatMulTest, IsNearTheReference) {
  ThreadPool pool({.threads = 2});
  for (const WeightPrecision precision : kAllPrecisions) {
    for (const Shape& shape : kShapes) {
      SCOPED_TRACE(testing::Message() << WeightPrecisionName(precision) << " " << shape.rows << " x " << shape.inputs
                                      << " x " << shape.outputs);
      const PackedTestMatrix w(precision, shape.outputs, shape.inputs, RandomFloats(shape.outputs * shape.inputs, 1));
      const std::vector<float> x = Activations(precision, shape.rows * shape.inputs, 2);
      const std::vector<float> bias = RandomFloats(shape.outputs, 3);
      for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
        std::vector<float> got(shape.rows * shape.outputs), want(got.size());
        const MatMulRows rows = {x.data(), shape.inputs, shape.rows};
        MatMul(pool, w.matrix(), b, rows, got.data(), shape.outputs);
        MatMulReference(w.matrix(), b, rows, want.data(), shape.outputs);
        for (int64_t i = 0; i < shape.rows * shape.outputs; ++i) {
          const int64_t o = i % shape.outputs;
          ASSERT_NEAR(got[i], want[i],
                      Tolerance(w.matrix(), o, x.data() + i / shape.outputs * shape.inputs, b == nullptr ? 0 : b[o]))
              << "row " << i / shape.outputs << " output " << o;
        }
      }
    }
  }
}

// The promise: a row has the same bits alone, in any company, at any place in it, on any number of threads.
TEST_P(MatMulTest, RowsDoNotDependOnTheBatch) {
  const int64_t inputs = 331, outputs = 87, rows = 40;
  for (const WeightPrecision precision : kBatchInvariant) {
    const PackedTestMatrix w(precision, outputs, inputs, RandomFloats(outputs * inputs, 1));
    const std::vector<float> x = Activations(precision, rows * inputs, 2);
    const std::vector<float> bias = RandomFloats(outputs, 3);
    std::vector<float> alone(rows * outputs);
    for (int64_t r = 0; r < rows; ++r) {
      MatMulOnThisThread(w.matrix(), bias.data(), {x.data() + r * inputs, inputs, 1}, alone.data() + r * outputs,
                         outputs);
    }
    for (const int threads : {1, 2, 3, 4}) {
      ThreadPool pool({.threads = threads});
      for (int64_t count = 1; count <= rows; ++count) {
        for (const int64_t first : {int64_t{0}, rows - count}) {
          std::vector<float> some(count * outputs);
          MatMul(pool, w.matrix(), bias.data(), {x.data() + first * inputs, inputs, count}, some.data(), outputs);
          ASSERT_EQ(std::memcmp(some.data(), alone.data() + first * outputs, some.size() * sizeof(float)), 0)
              << WeightPrecisionName(precision) << " " << count << " rows, " << threads << " threads";
        }
      }
    }
  }
}

// Sizes of real layers, where kernels cut long sums and wide outputs into cache-sized pieces.
TEST_P(MatMulTest, LargeLayersDoNotDependOnTheBatchEither) {
  const int64_t inputs = 4500, outputs = 330, rows = 70;
  ThreadPool pool({.threads = 2});
  for (const WeightPrecision precision : kBatchInvariant) {
    const PackedTestMatrix w(precision, outputs, inputs, RandomFloats(outputs * inputs, 1));
    const std::vector<float> x = Activations(precision, rows * inputs, 2);
    std::vector<float> together(rows * outputs);
    MatMul(pool, w.matrix(), nullptr, {x.data(), inputs, rows}, together.data(), outputs);
    for (const int64_t r : {0, 5, 6, 31, 32, 68, 69}) {
      std::vector<float> alone(outputs);
      MatMul(pool, w.matrix(), nullptr, {x.data() + r * inputs, inputs, 1}, alone.data(), outputs);
      ASSERT_EQ(std::memcmp(alone.data(), together.data() + r * outputs, outputs * sizeof(float)), 0)
          << WeightPrecisionName(precision) << " row " << r;
    }
  }
}

TEST_P(MatMulTest, StridesSelectColumnsOfWiderRows) {
  const int64_t block = 24, width = 72, rows = 9;
  for (const WeightPrecision precision : kAllPrecisions) {
    const PackedTestMatrix w(precision, block, block, RandomFloats(block * block, 1));
    const std::vector<float> x = Activations(precision, rows * width, 2);
    std::vector<float> dense(rows * block), want(rows * block), wide(rows * width, -1.0f);
    for (int64_t r = 0; r < rows; ++r) std::copy_n(x.data() + r * width + block, block, dense.data() + r * block);
    MatMulOnThisThread(w.matrix(), nullptr, {dense.data(), block, rows}, want.data(), block);
    MatMulOnThisThread(w.matrix(), nullptr, {x.data() + block, width, rows}, wide.data() + block, width);
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < width; ++c) {
        const bool inside = c >= block && c < 2 * block;
        ASSERT_EQ(wide[r * width + c], inside ? want[r * block + c - block] : -1.0f);
      }
    }
  }
}

TEST_P(MatMulTest, NoRowsLeaveTheOutputsAlone) {
  ThreadPool pool({.threads = 2});
  for (const WeightPrecision precision : kAllPrecisions) {
    const PackedTestMatrix w(precision, 3, 5, RandomFloats(15, 1));
    float y = -1.0f;
    MatMul(pool, w.matrix(), nullptr, {nullptr, 5, 0}, &y, 3);
    MatMulOnThisThread(w.matrix(), nullptr, {nullptr, 5, 0}, &y, 3);
    EXPECT_EQ(y, -1.0f);
  }
}

// A NaN of one row stays in that row.
TEST_P(MatMulTest, RowsDoNotInfectOneAnother) {
  const int64_t inputs = 70, outputs = 20, rows = 11;
  for (const WeightPrecision precision : kBatchInvariant) {
    const PackedTestMatrix w(precision, outputs, inputs, RandomFloats(outputs * inputs, 1));
    std::vector<float> x = Activations(precision, rows * inputs, 2);
    x[4 * inputs + 69] = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> y(rows * outputs);
    MatMulOnThisThread(w.matrix(), nullptr, {x.data(), inputs, rows}, y.data(), outputs);
    for (int64_t i = 0; i < rows * outputs; ++i) EXPECT_EQ(std::isnan(y[i]), i / outputs == 4);
  }
}

// Sums of int8 products are exact, so that even instruction sets agree.
TEST(MatMulInt8A8Test, InstructionSetsGiveTheSameBits) {
  const int64_t inputs = 333, outputs = 70, rows = 19;
  const PackedTestMatrix w(WeightPrecision::kInt8A8, outputs, inputs, RandomFloats(outputs * inputs, 1));
  const std::vector<float> x = RandomFloats(rows * inputs, 2);
  const std::vector<float> bias = RandomFloats(outputs, 3);
  std::vector<std::vector<float>> results;
  for (const Isa isa : SupportedIsas()) {
    SetIsaForTesting(isa);
    std::vector<float>& y = results.emplace_back(rows * outputs);
    MatMulOnThisThread(w.matrix(), bias.data(), {x.data(), inputs, rows}, y.data(), outputs);
  }
  for (const std::vector<float>& y : results) EXPECT_EQ(y, results[0]);
}

TEST(MatMulF32Test, ThreadsChangeNoBit) {
  const int64_t inputs = 96, outputs = 700, rows = 11;
  const PackedTestMatrix w(WeightPrecision::kF32, outputs, inputs, RandomFloats(outputs * inputs, 1));
  const std::vector<float> x = RandomFloats(rows * inputs, 2);
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool({.threads = threads});
    std::vector<float>& y = results.emplace_back(rows * outputs);
    MatMul(pool, w.matrix(), nullptr, {x.data(), inputs, rows}, y.data(), outputs);
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

}  // namespace
}  // namespace baton
