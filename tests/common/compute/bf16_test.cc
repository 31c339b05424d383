#include "common/compute/bf16.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

namespace baton {
namespace {

TEST(Bf16Test, RoundsToNearestEven) {
  EXPECT_EQ(FloatToBf16(1.0f), 0x3f80);
  EXPECT_EQ(FloatToBf16(1.0f + 0x1p-8f), 0x3f80);             // a tie: to the even neighbour below
  EXPECT_EQ(FloatToBf16(1.0f + 3 * 0x1p-8f), 0x3f82);         // a tie: to the even neighbour above
  EXPECT_EQ(FloatToBf16(1.0f + 0x1p-8f + 0x1p-20f), 0x3f81);  // just over
  EXPECT_EQ(RoundToBf16(std::sqrt(2048.0f)), 45.25f);
  EXPECT_EQ(RoundToBf16(std::sqrt(2560.0f)), 50.5f);
  EXPECT_EQ(RoundToBf16(std::sqrt(3072.0f)), 55.5f);
}

TEST(Bf16Test, EveryBf16SurvivesTheRoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = Bf16ToFloat(static_cast<uint16_t>(bits));
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(value))));
      continue;
    }
    EXPECT_EQ(FloatToBf16(value), bits);
    EXPECT_EQ(std::bit_cast<uint32_t>(RoundToBf16(value)), bits << 16);
  }
}

TEST(Bf16Test, NaNStaysNaNAndInfinityInfinity) {
  const float all_ones = std::bit_cast<float>(0x7fffffffu);
  EXPECT_TRUE(std::isnan(RoundToBf16(all_ones)));
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(all_ones))));
  EXPECT_TRUE(std::isnan(Bf16ToFloat(FloatToBf16(std::bit_cast<float>(0x7f800001u)))));
  const float infinity = std::numeric_limits<float>::infinity();
  EXPECT_EQ(RoundToBf16(-infinity), -infinity);
  EXPECT_EQ(RoundToBf16(std::numeric_limits<float>::max()), infinity);
}

}  // namespace
}  // namespace baton
