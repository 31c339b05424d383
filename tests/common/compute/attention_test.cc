#include "common/compute/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>

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

  KeyValueRows Rows(KvElement type, int64_t begin, int64_t rows) const {
    const int64_t at = begin * head_dim;
    if (type == KvElement::kF32) {
      return {reinterpret_cast<const std::byte*>(&keys[at]), reinterpret_cast<const std::byte*>(&values[at]),
              first + begin, rows};
    }
    return {reinterpret_cast<const std::byte*>(&keys16[at]), reinterpret_cast<const std::byte*>(&values16[at]),
            first + begin, rows};
  }
  std::vector<KeyValueRows> Cut(KvElement type, std::vector<int64_t> lengths) const {
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

// How far softmax weights rounded to bfloat16 may move an output: 2^-9 of each term, in the numerator and in the sum.
constexpr double kRoundedWeights = 2.0 / 512;

TEST_P(AttentionTest, IsNearTheReference) {
  for (const KvElement type : {KvElement::kF32, KvElement::kBf16}) {
    for (const int head_dim : {8, 24, 31, 32, 64, 80, 128, 256}) {
      for (const float soft_cap : {0.0f, 20.0f}) {
        const Context context(100, 153, head_dim);
        const AttentionShape shape = {head_dim, 1.0f / std::sqrt(static_cast<float>(head_dim)), soft_cap, type, false};
        const std::vector<float> q = RoundedToBf16(RandomFloats(4 * head_dim, 3, 3.0f));
        std::vector<float> got(4 * head_dim), want(4 * head_dim);
        std::vector<AttentionQuery> queries, references;
        const int64_t begins[] = {100, 101, 128, 252};
        for (int i = 0; i < 4; ++i) {
          queries.push_back({&q[i * head_dim], &got[i * head_dim], begins[i], 250 + i});
          references.push_back({&q[i * head_dim], &want[i * head_dim], begins[i], 250 + i});
        }
        const std::vector<KeyValueRows> rows = context.Cut(type, {});
        for (int i = 0; i < 4; ++i) AttendReference(shape, rows, references[i]);
        for (int count = 1; count <= 4; ++count) {
          Attend(shape, rows, absl::MakeSpan(queries).subspan(0, count));
          // Values are seldom beyond 4.
          const double bound = type == KvElement::kF32 ? 1e-5 : 4 * kRoundedWeights;
          double squares = 0;
          for (int i = 0; i < count * head_dim; ++i) {
            ASSERT_NEAR(got[i], want[i], bound) << head_dim << " " << i;
            squares += (got[i] - want[i]) * (got[i] - want[i]);
          }
          EXPECT_LT(std::sqrt(squares / (count * head_dim)), bound / 8);
        }
      }
    }
  }
}

// Queries are rounded like the keys they meet.
TEST_P(AttentionTest, RoundsQueriesOfBf16Keys) {
  const int head_dim = 48;
  const Context context(0, 70, head_dim);
  const std::vector<float> q = RandomFloats(head_dim, 3, 3.0f);
  const std::vector<float> rounded = RoundedToBf16(q);
  std::vector<float> got(head_dim), want(head_dim);
  const AttentionQuery query = {q.data(), got.data(), 0, 70};
  const AttentionQuery same = {rounded.data(), want.data(), 0, 70};
  const std::vector<KeyValueRows> rows = context.Cut(KvElement::kBf16, {});
  Attend({head_dim, 0.3f, 0.0f, KvElement::kBf16, false}, rows, {&query, 1});
  Attend({head_dim, 0.3f, 0.0f, KvElement::kBf16, false}, rows, {&same, 1});
  EXPECT_EQ(got, want);
}

// Pages and neighbours in the tile change no bit.
TEST_P(AttentionTest, BitsDoNotDependOnPiecesOrNeighbours) {
  for (const KvElement type : {KvElement::kF32, KvElement::kBf16}) {
    for (const int head_dim : {40, 128}) {
      for (const float soft_cap : {0.0f, 30.0f}) {
        constexpr int kQueries = kMaxTileQueries;
        const Context context(7, 400, head_dim);
        const AttentionShape shape = {head_dim, 0.2f, soft_cap, type, true};
        const std::vector<float> q = RandomFloats(kQueries * head_dim, 3, 3.0f);
        std::vector<float> alone(kQueries * head_dim), together(alone.size());
        // A window of 100 keys for every third query; ends advance by 5.
        const auto query_at = [&](int i, std::vector<float>& outputs) {
          const int64_t end = 60 + 5 * i;
          return AttentionQuery{&q[i * head_dim], &outputs[i * head_dim],
                                i % 3 == 0 ? std::max<int64_t>(7, end - 100) : 7, end};
        };
        // Each query with exactly the keys it sees, in one piece, as in decode.
        for (int i = 0; i < kQueries; ++i) {
          const AttentionQuery query = query_at(i, alone);
          const KeyValueRows rows = context.Rows(type, query.begin - 7, query.end - query.begin);
          Attend(shape, {&rows, 1}, {&query, 1});
        }
        EXPECT_EQ(alone, RoundedToBf16(alone));
        for (const int count : {kQueries, 7}) {
          for (const std::vector<int64_t>& cut :
               {std::vector<int64_t>{}, {1, 2, 3, 4, 5}, {64}, {57, 64, 64, 64, 64}, {3, 16, 16, 16, 16, 16}}) {
            std::fill(together.begin(), together.end(), NAN);
            for (int first = 0; first < kQueries; first += count) {
              std::vector<AttentionQuery> queries;
              for (int i = first; i < std::min(first + count, kQueries); ++i) queries.push_back(query_at(i, together));
              Attend(shape, context.Cut(type, cut), queries);
            }
            ASSERT_EQ(together, alone) << head_dim << " " << count;
          }
        }
      }
    }
  }
}

// A query may see so little of a value that it rounds to nothing; its neighbours must not change even the sign of that.
TEST_P(AttentionTest, BitsSurviveUnderflow) {
  const int head_dim = 32;
  Context context(0, 192, head_dim);
  for (uint16_t& value : context.values16) value = FloatToBf16(Bf16ToFloat(value) * 3e-38f);
  for (float& value : context.values) value *= 3e-38f;
  for (const KvElement type : {KvElement::kF32, KvElement::kBf16}) {
    const AttentionShape shape = {head_dim, 3.0f, 0.0f, type, false};
    const std::vector<float> q = RandomFloats(8 * head_dim, 3, 3.0f);
    std::vector<float> alone(8 * head_dim), together(8 * head_dim);
    std::vector<AttentionQuery> queries;
    for (int i = 0; i < 8; ++i) {
      const AttentionQuery query = {&q[i * head_dim], &alone[i * head_dim], 3, 10 + 26 * i};
      const KeyValueRows rows = context.Rows(type, 3, query.end - 3);
      Attend(shape, {&rows, 1}, {&query, 1});
      queries.push_back({query.query, &together[i * head_dim], query.begin, query.end});
    }
    Attend(shape, context.Cut(type, {}), queries);
    EXPECT_EQ(0, std::memcmp(together.data(), alone.data(), alone.size() * sizeof(float)));
  }
}

// Heads of different sizes and elements share a thread's scratch: what one leaves there must not reach another.
TEST_P(AttentionTest, ScratchLeavesNoTrace) {
  const int head_dim = 24;
  const std::vector<float> q = RandomFloats(256, 3, 3.0f);
  const auto attend = [&](const Context& context, KvElement type) {
    std::vector<float> output(context.head_dim);
    const AttentionQuery query = {q.data(), output.data(), 0, 70};
    Attend({context.head_dim, 0.3f, 0.0f, type, false}, context.Cut(type, {}), {&query, 1});
    return output;
  };
  const Context context(0, 70, head_dim), large(0, 70, 256);
  Context nan(0, 70, head_dim);
  std::fill(nan.keys.begin(), nan.keys.end(), NAN);
  std::fill(nan.values.begin(), nan.values.end(), NAN);
  std::fill(nan.keys16.begin(), nan.keys16.end(), 0x7fff);
  std::fill(nan.values16.begin(), nan.values16.end(), 0x7fff);
  for (const KvElement type : {KvElement::kF32, KvElement::kBf16}) {
    const std::vector<float> want = attend(context, type);
    for (const KvElement other : {KvElement::kF32, KvElement::kBf16}) {
      for (const Context* before : std::initializer_list<const Context*>{&large, &nan}) {
        attend(*before, other);
        EXPECT_EQ(attend(context, type), want);
      }
    }
  }
}

// NaN or infinity in one position's value must reach those who see it, as a sign that something is wrong.
TEST_P(AttentionTest, NaNIsNotHidden) {
  Context context(0, 80, 16);
  context.values[70 * 16 + 3] = NAN;
  context.keys[75 * 16] = NAN;
  const std::vector<float> q = RandomFloats(16, 1);
  std::vector<float> out(16);
  const AttentionShape shape = {16, 1.0f, 0.0f, KvElement::kF32, false};
  const auto attend = [&](int64_t end) {
    const AttentionQuery query = {q.data(), out.data(), 0, end};
    const KeyValueRows rows = context.Rows(KvElement::kF32, 0, end);
    Attend(shape, {&rows, 1}, {&query, 1});
  };
  attend(70);
  for (const float value : out) EXPECT_TRUE(std::isfinite(value));
  attend(71);
  EXPECT_TRUE(std::isnan(out[3]));
  EXPECT_TRUE(std::isfinite(out[2]));
  attend(80);
  for (const float value : out) EXPECT_TRUE(std::isnan(value));
}

TEST_P(AttentionTest, OneKeyGivesItsValue) {
  const Context context(0, 1, 16);
  const std::vector<float> q = RandomFloats(16, 1, 100.0f);
  std::vector<float> out(16);
  const AttentionQuery query = {q.data(), out.data(), 0, 1};
  Attend({16, 1.0f, 0.0f, KvElement::kF32, false}, context.Cut(KvElement::kF32, {}), {&query, 1});
  EXPECT_EQ(out, context.values);
}

TEST_P(AttentionTest, HugeScoresDoNotOverflow) {
  const Context context(0, 40, 16);
  const std::vector<float> q = RandomFloats(16, 1, 1e5f);
  std::vector<float> out(16), want(16);
  const AttentionShape shape = {16, 1.0f, 0.0f, KvElement::kF32, false};
  const AttentionQuery query = {q.data(), out.data(), 0, 40};
  Attend(shape, context.Cut(KvElement::kF32, {}), {&query, 1});
  AttendReference(shape, context.Cut(KvElement::kF32, {}), {q.data(), want.data(), 0, 40});
  for (int i = 0; i < 16; ++i) EXPECT_NEAR(out[i], want[i], 1e-5);
}

TEST(AttentionDeathTest, RefusesAQueryThatSeesMissingKeys) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const Context context(5, 10, 16);
  std::vector<float> vector(16);
  const AttentionQuery query = {vector.data(), vector.data(), 4, 10};
  EXPECT_DEATH(Attend({16, 1.0f, 0.0f, KvElement::kF32, false}, context.Cut(KvElement::kF32, {}), {&query, 1}),
               "check failed");
}

}  // namespace
}  // namespace baton
