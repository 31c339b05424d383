#include "common/compute/rope.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/common/compute/random_values.h"

namespace baton {
namespace {

TEST(RopeTest, RotatesHalvesByPosition) {
  ThreadPool pool({.threads = 2});
  const int head_dim = 8, heads = 3;
  RopeTable table(10000.0, head_dim);
  const std::vector<int64_t> positions = {0, 5, 8000, 1, 2, 3, 70000};
  table.Prepare(pool, positions);
  for (size_t row = 0; row < positions.size(); ++row) {
    const std::vector<float> before = RandomFloats(heads * head_dim, 1);
    std::vector<float> after = before;
    table.Rotate(static_cast<int64_t>(row), heads, head_dim, after.data());
    for (int head = 0; head < heads; ++head) {
      for (int i = 0; i < 4; ++i) {
        const double angle = static_cast<double>(positions[row]) * std::pow(10000.0, -2.0 * i / head_dim);
        const double a = before[head * 8 + i], b = before[head * 8 + i + 4];
        EXPECT_NEAR(after[head * 8 + i], a * std::cos(angle) - b * std::sin(angle), 1e-6);
        EXPECT_NEAR(after[head * 8 + i + 4], b * std::cos(angle) + a * std::sin(angle), 1e-6);
      }
    }
  }
}

TEST(RopeTest, LeavesDimsBeyondTheRotaryOnes) {
  ThreadPool pool({.threads = 1});
  RopeTable table(10000.0, /*rotary_dim=*/12);
  table.Prepare(pool, {int64_t{7}});
  const std::vector<float> before = RandomFloats(24, 1);
  std::vector<float> after = before;
  table.Rotate(0, 1, 24, after.data());
  for (int i = 0; i < 12; ++i) EXPECT_NE(after[i], before[i]);
  for (int i = 12; i < 24; ++i) EXPECT_EQ(after[i], before[i]);
}

TEST(RopeTest, PrepareReplacesEarlierRows) {
  ThreadPool pool({.threads = 2});
  RopeTable table(10000.0, 4);
  table.Prepare(pool, {int64_t{1}, int64_t{2}, int64_t{3}});
  table.Prepare(pool, {int64_t{3}});
  RopeTable fresh(10000.0, 4);
  fresh.Prepare(pool, {int64_t{3}});
  std::vector<float> a = {1, 2, 3, 4}, b = a;
  table.Rotate(0, 1, 4, a.data());
  fresh.Rotate(0, 1, 4, b.data());
  EXPECT_EQ(a, b);
}

}  // namespace
}  // namespace baton
