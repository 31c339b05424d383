#include "common/compute/attention.h"

#include <gtest/gtest.h>

#include <cmath>

#include "tests/common/compute/isa_test_fixture.h"
#include "tests/common/compute/random_values.h"

namespace baton {
namespace {

// Keys and values of `count` positions from `first` on, in both element types.
struct Context {
  Context(int64_t first_position, int64_t positions, int dim)
      : first(first_position),
        count(positions),
        head_dim(dim),
        keys(RoundedToBf16(RandomFloats(positions * dim, 11))),
        values(RoundedToBf16(RandomFloats(positions * dim, 12))),
        keys16(ToBf16(keys)),
        values16(ToBf16(values)) {}

  KeyValueRows Rows(WeightType type, int64_t begin, int64_t rows) const {
    const int64_t at = begin * head_dim;
    if (type == WeightType::kF32) {
      return {reinterpret_cast<const std::byte*>(&keys[at]), reinterpret_cast<const std::byte*>(&values[at]),
              first + begin, rows};
    }
    return {reinterpret_cast<const std::byte*>(&keys16[at]), reinterpret_cast<const std::byte*>(&values16[at]),
            first + begin, rows};
  }
  std::vector<KeyValueRows> Cut(WeightType type, std::vector<int64_t> lengths) const {
    std::vector<KeyValueRows> rows;
    int64_t at = 0;
    for (const int64_t length : lengths) {
      rows.push_back(Rows(type, at, length));
      at += length;
    }
    if (at < count) rows.push_back(Rows(type, at, count - at));
    return rows;
  }

  int64_t first, count;
  int head_dim;
  std::vector<float> keys, values;
  std::vector<uint16_t> keys16, values16;
};

class AttentionTest : public IsaTest {};
BATON_INSTANTIATE_ISA_TEST(AttentionTest);

TEST_P(AttentionTest, IsNearTheReference) {
  for (const WeightType type : {WeightType::kF32, WeightType::kBf16}) {
    for (const int head_dim : {8, 24, 32, 64, 80, 128, 256}) {
      for (const float soft_cap : {0.0f, 20.0f}) {
        const Context context(100, 53, head_dim);
        const AttentionShape shape = {head_dim, 1.0f / std::sqrt(static_cast<float>(head_dim)), soft_cap, type, false};
        const std::vector<float> q = RandomFloats(4 * head_dim, 3, 3.0f);
        std::vector<float> got(4 * head_dim), want(4 * head_dim);
        std::vector<AttentionQuery> queries, references;
        const int64_t begins[] = {100, 101, 110, 152};
        for (int i = 0; i < 4; ++i) {
          queries.push_back({&q[i * head_dim], &got[i * head_dim], begins[i], 150 + i});
          references.push_back({&q[i * head_dim], &want[i * head_dim], begins[i], 150 + i});
        }
        const std::vector<KeyValueRows> rows = context.Cut(type, {});
        for (int count = 1; count <= 4; ++count) {
          Attend(shape, rows, absl::MakeSpan(queries).subspan(0, count));
          for (int i = 0; i < count; ++i) AttendReference(shape, rows, references[i]);
          for (int i = 0; i < count * head_dim; ++i) EXPECT_NEAR(got[i], want[i], 1e-5);
        }
      }
    }
  }
}

// Pages, ring wrap-around and neighbours in the tile change no bit.
TEST_P(AttentionTest, BitsDoNotDependOnPiecesOrNeighbours) {
  for (const WeightType type : {WeightType::kF32, WeightType::kBf16}) {
    const int head_dim = 40;
    const Context context(7, 90, head_dim);
    const AttentionShape shape = {head_dim, 0.2f, 30.0f, type, true};
    const std::vector<float> q = RandomFloats(4 * head_dim, 3, 3.0f);
    std::vector<float> alone(4 * head_dim);
    // Each query with exactly the keys it sees, in one piece.
    for (int i = 0; i < 4; ++i) {
      const AttentionQuery query = {&q[i * head_dim], &alone[i * head_dim], 10 + i, 94 + i};
      const KeyValueRows rows = context.Rows(type, query.begin - 7, query.end - query.begin);
      Attend(shape, {&rows, 1}, {&query, 1});
    }
    for (const std::vector<int64_t>& cut : {std::vector<int64_t>{}, {1, 2, 3, 4, 5}, {64}, {3, 16, 16, 16, 16, 16}}) {
      std::vector<float> together(4 * head_dim);
      std::vector<AttentionQuery> queries;
      for (int i = 0; i < 4; ++i) queries.push_back({&q[i * head_dim], &together[i * head_dim], 10 + i, 94 + i});
      Attend(shape, context.Cut(type, cut), queries);
      EXPECT_EQ(together, alone);
    }
    EXPECT_EQ(alone, RoundedToBf16(alone));
  }
}

TEST_P(AttentionTest, OneKeyGivesItsValue) {
  const Context context(0, 1, 16);
  const std::vector<float> q = RandomFloats(16, 1, 100.0f);
  std::vector<float> out(16);
  const AttentionQuery query = {q.data(), out.data(), 0, 1};
  Attend({16, 1.0f, 0.0f, WeightType::kF32, false}, context.Cut(WeightType::kF32, {}), {&query, 1});
  EXPECT_EQ(out, context.values);
}

TEST_P(AttentionTest, HugeScoresDoNotOverflow) {
  const Context context(0, 40, 16);
  const std::vector<float> q = RandomFloats(16, 1, 1e5f);
  std::vector<float> out(16), want(16);
  const AttentionShape shape = {16, 1.0f, 0.0f, WeightType::kF32, false};
  const AttentionQuery query = {q.data(), out.data(), 0, 40};
  Attend(shape, context.Cut(WeightType::kF32, {}), {&query, 1});
  AttendReference(shape, context.Cut(WeightType::kF32, {}), {q.data(), want.data(), 0, 40});
  for (int i = 0; i < 16; ++i) EXPECT_NEAR(out[i], want[i], 1e-5);
}

TEST(AttentionDeathTest, RefusesAQueryThatSeesMissingKeys) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const Context context(5, 10, 16);
  std::vector<float> vector(16);
  const AttentionQuery query = {vector.data(), vector.data(), 4, 10};
  EXPECT_DEATH(Attend({16, 1.0f, 0.0f, WeightType::kF32, false}, context.Cut(WeightType::kF32, {}), {&query, 1}),
               "check failed");
}

}  // namespace
}  // namespace baton
