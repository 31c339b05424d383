#include "common/sampling/sample_seed.h"

#include <gtest/gtest.h>

#include <set>

namespace baton {
namespace {

// The values that docs/api.md promises, so that clients may rely on them.
TEST(SampleSeedTest, IsTheDocumentedFunction) {
  EXPECT_EQ(SampleSeed(0, 0), 0u);
  EXPECT_EQ(SampleSeed(42, 0), 42u);
  EXPECT_EQ(SampleSeed(0, 1), 0x5692161d100b05e5u);
  EXPECT_EQ(SampleSeed(42, 1), 0x5692161d100b05e5u ^ 42u);
}

TEST(SampleSeedTest, SeedsOfOneRequestDiffer) {
  for (const uint64_t seed : {uint64_t{0}, uint64_t{1}, ~uint64_t{0}}) {
    std::set<uint64_t> seeds;
    for (int sample = 0; sample < 128; ++sample) seeds.insert(SampleSeed(seed, sample));
    EXPECT_EQ(seeds.size(), 128u);
  }
}

}  // namespace
}  // namespace baton
