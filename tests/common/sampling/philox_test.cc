#include "common/sampling/philox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

#include "common/sampling/sampler.h"

namespace baton {
namespace {

using ::testing::ElementsAre;

// Known-answer vectors of the Random123 distribution (philox4x32, 10 rounds).
TEST(Philox4x32, GivesThePublishedVectors) {
  EXPECT_THAT(Philox4x32({0, 0, 0, 0}, {0, 0}), ElementsAre(0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8));
  EXPECT_THAT(Philox4x32({0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff}, {0xffffffff, 0xffffffff}),
              ElementsAre(0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd));
  EXPECT_THAT(Philox4x32({0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344}, {0xa4093822, 0x299f31d0}),
              ElementsAre(0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1));
}

// Counter (position, 0), key = seed, first two words: other implementations of the sampler can be checked with these.
TEST(UniformAt, IsTheTopBitsOfPhilox) {
  const uint64_t bits = (uint64_t{0xe169c58d} << 32 | 0x6627e8d5) >> 11;
  EXPECT_EQ(UniformAt(0, 0), std::ldexp(static_cast<double>(bits), -53));
}

TEST(UniformAt, DependsOnEveryBitOfSeedAndPosition) {
  std::set<double> seen = {UniformAt(0, 0)};
  for (int bit = 0; bit < 64; ++bit) EXPECT_TRUE(seen.insert(UniformAt(uint64_t{1} << bit, 0)).second) << bit;
  for (int bit = 0; bit < 63; ++bit) EXPECT_TRUE(seen.insert(UniformAt(0, int64_t{1} << bit)).second) << bit;
  EXPECT_EQ(UniformAt(7, 9), UniformAt(7, 9));
}

TEST(UniformAt, IsUniform) {
  constexpr int kDraws = 64000;
  constexpr int kBins = 64;
  int counts[kBins] = {};
  for (int position = 0; position < kDraws; ++position) {
    const double value = UniformAt(12345, position);
    ASSERT_GE(value, 0);
    ASSERT_LT(value, 1);
    ++counts[static_cast<int>(value * kBins)];
  }
  double chi_square = 0;
  const double expected = static_cast<double>(kDraws) / kBins;
  for (const int count : counts) chi_square += (count - expected) * (count - expected) / expected;
  // 99.9% quantile for 63 degrees of freedom.
  EXPECT_LT(chi_square, 103.4);
}

}  // namespace
}  // namespace baton
