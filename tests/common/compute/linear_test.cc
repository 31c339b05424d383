#include "common/compute/linear.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <tuple>

#include "tests/common/compute/isa_test_fixture.h"
#include "tests/common/compute/random_values.h"

namespace baton {
namespace {

struct Shape {
  int64_t rows, inputs, outputs;
};

// Odd sizes, tails of every tile, one row and many.
constexpr Shape kShapes[] = {{1, 16, 1},   {1, 96, 512}, {2, 15, 7},   {3, 24, 33},  {5, 1, 2},     {6, 112, 4},
                             {7, 130, 65}, {13, 256, 5}, {29, 48, 16}, {64, 31, 19}, {150, 200, 9}, {40, 2304, 12}};

class LinearTest : public IsaTest {};
BATON_INSTANTIATE_ISA_TEST(LinearTest);

TEST_P(LinearTest, Bf16GivesTheReferencesBits) {
  ThreadPool pool({.threads = 2});
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.inputs << " x " << shape.outputs);
    const std::vector<uint16_t> w = ToBf16(RandomFloats(shape.outputs * shape.inputs, 1));
    const std::vector<float> x = RoundedToBf16(RandomFloats(shape.rows * shape.inputs, 2));
    const std::vector<float> bias = RandomFloats(shape.outputs, 3);
    const WeightMatrix weights = {w.data(), WeightType::kBf16, shape.outputs, shape.inputs};
    for (const float* b : {static_cast<const float*>(nullptr), bias.data()}) {
      std::vector<float> got(shape.rows * shape.outputs), want(got.size());
      Linear(pool, weights, b, {x.data(), shape.inputs, shape.rows}, got.data(), shape.outputs);
      LinearReference(weights, b, {x.data(), shape.inputs, shape.rows}, want.data(), shape.outputs);
      EXPECT_EQ(got, want);
    }
  }
}

// The promise: a row has the same bits alone, in any company, on any number of threads.
TEST_P(LinearTest, Bf16RowsDoNotDependOnTheBatch) {
  const int64_t inputs = 200, outputs = 70, rows = 23;
  const std::vector<uint16_t> w = ToBf16(RandomFloats(outputs * inputs, 1));
  const std::vector<float> x = RoundedToBf16(RandomFloats(rows * inputs, 2));
  const WeightMatrix weights = {w.data(), WeightType::kBf16, outputs, inputs};
  ThreadPool one({.threads = 1});
  std::vector<float> all(rows * outputs);
  Linear(one, weights, nullptr, {x.data(), inputs, rows}, all.data(), outputs);
  for (const int threads : {1, 3}) {
    ThreadPool pool({.threads = threads});
    for (int64_t count = 1; count <= rows; ++count) {
      for (const int64_t first : {int64_t{0}, rows - count}) {
        std::vector<float> some(count * outputs);
        Linear(pool, weights, nullptr, {x.data() + first * inputs, inputs, count}, some.data(), outputs);
        EXPECT_EQ(std::memcmp(some.data(), all.data() + first * outputs, some.size() * sizeof(float)), 0);
      }
    }
  }
}

TEST_P(LinearTest, Bf16WeightsMayStartAtAnyEvenAddress) {
  const int64_t inputs = 35, outputs = 6;
  std::vector<uint16_t> storage = ToBf16(RandomFloats(outputs * inputs + 1, 1));
  const std::vector<float> x = RoundedToBf16(RandomFloats(inputs, 2));
  const WeightMatrix weights = {storage.data() + 1, WeightType::kBf16, outputs, inputs};
  std::vector<float> got(outputs), want(outputs);
  LinearOnThisThread(weights, nullptr, {x.data(), inputs, 1}, got.data(), outputs);
  LinearReference(weights, nullptr, {x.data(), inputs, 1}, want.data(), outputs);
  EXPECT_EQ(got, want);
}

TEST_P(LinearTest, StridesSelectColumnsOfWiderRows) {
  for (const WeightType type : {WeightType::kBf16, WeightType::kF32}) {
    const int64_t block = 24, width = 72, rows = 9;
    const std::vector<float> w32 = RoundedToBf16(RandomFloats(block * block, 1));
    const std::vector<uint16_t> w16 = ToBf16(w32);
    const void* data = type == WeightType::kBf16 ? static_cast<const void*>(w16.data()) : w32.data();
    const std::vector<float> x = RoundedToBf16(RandomFloats(rows * width, 2));
    std::vector<float> got(rows * width, -1.0f), want(rows * width, -1.0f);
    const WeightMatrix weights = {data, type, block, block};
    LinearOnThisThread(weights, nullptr, {x.data() + block, width, rows}, got.data() + block, width);
    LinearReference(weights, nullptr, {x.data() + block, width, rows}, want.data() + block, width);
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-4) << i;
    EXPECT_EQ(got[0], -1.0f);
    EXPECT_EQ(got[2 * block], -1.0f);
  }
}

TEST(LinearF32Test, IsNearTheReference) {
  ThreadPool pool({.threads = 2});
  for (const Shape& shape : kShapes) {
    const std::vector<float> w = RandomFloats(shape.outputs * shape.inputs, 1);
    const std::vector<float> x = RandomFloats(shape.rows * shape.inputs, 2);
    const std::vector<float> bias = RandomFloats(shape.outputs, 3);
    const WeightMatrix weights = {w.data(), WeightType::kF32, shape.outputs, shape.inputs};
    std::vector<float> got(shape.rows * shape.outputs), want(got.size());
    Linear(pool, weights, bias.data(), {x.data(), shape.inputs, shape.rows}, got.data(), shape.outputs);
    LinearReference(weights, bias.data(), {x.data(), shape.inputs, shape.rows}, want.data(), shape.outputs);
    for (size_t i = 0; i < got.size(); ++i) EXPECT_NEAR(got[i], want[i], 1e-3) << i;
  }
}

TEST(LinearF32Test, ThreadsChangeNoBit) {
  const int64_t inputs = 96, outputs = 700, rows = 11;
  const std::vector<float> w = RandomFloats(outputs * inputs, 1);
  const std::vector<float> x = RandomFloats(rows * inputs, 2);
  const WeightMatrix weights = {w.data(), WeightType::kF32, outputs, inputs};
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    ThreadPool pool({.threads = threads});
    std::vector<float>& y = results.emplace_back(rows * outputs);
    Linear(pool, weights, nullptr, {x.data(), inputs, rows}, y.data(), outputs);
  }
  EXPECT_EQ(results[0], results[1]);
  EXPECT_EQ(results[0], results[2]);
}

TEST(LinearBf16Test, InstructionSetsAgree) {
  const int64_t inputs = 250, outputs = 40, rows = 9;
  const std::vector<uint16_t> w = ToBf16(RandomFloats(outputs * inputs, 1));
  const std::vector<float> x = RoundedToBf16(RandomFloats(rows * inputs, 2));
  std::vector<std::vector<float>> results;
  for (const Isa isa : SupportedIsas()) {
    SetIsaForTesting(isa);
    std::vector<float>& y = results.emplace_back(rows * outputs);
    LinearOnThisThread({w.data(), WeightType::kBf16, outputs, inputs}, nullptr, {x.data(), inputs, rows}, y.data(),
                       outputs);
  }
  for (const std::vector<float>& y : results) EXPECT_EQ(y, results[0]);
}

}  // namespace
}  // namespace baton
