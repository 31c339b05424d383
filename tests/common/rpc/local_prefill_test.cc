#include "common/rpc/local_prefill.h"

#include <limits>

#include "gtest/gtest.h"

namespace baton {
namespace {

TEST(LocalPrefillTest, StepsOfRunningSequencesGrowByAtMostTheShare) {
  for (int64_t running = 1; running <= 256; ++running) {
    const int64_t tokens = PromptTokensInStep(running, 1 << 20);
    EXPECT_GE(tokens, 1);
    EXPECT_LE(100 * tokens, kMaxStepGrowthPercent * (kWeightPassRows + running)) << running;
    EXPECT_LE(tokens, PromptTokensInStep(running + 1, 1 << 20));
  }
  EXPECT_EQ(PromptTokensInStep(0, 32), 32);
  EXPECT_EQ(PromptTokensInStep(8, 32), 5);
  EXPECT_EQ(PromptTokensInStep(256, 32), 32) << "never more than a chunk";
  EXPECT_EQ(PromptTokensInStep(8, 1), 1);
}

TEST(LocalPrefillTest, RowsUntilTheFirstToken) {
  // Idle: the weights once and the tokens; with a chunk of 16 twice.
  EXPECT_EQ(LocalRows(0, 0, 16, 16), 10 + 16);
  EXPECT_EQ(LocalRows(0, 0, 17, 16), 20 + 17);
  EXPECT_EQ(LocalRows(8, 0, 5, 16), 9 + 18 + 5);
  EXPECT_EQ(LocalRows(8, 5, 5, 16), 9 + 36 + 10) << "behind another";
  // Whatever a peer says.
  constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();
  EXPECT_GT(LocalRows(kHuge, kHuge, kHuge, 1), int64_t{1} << 30);
  EXPECT_EQ(LocalRows(-kHuge, -1, 5, 16), 15);
}

}  // namespace
}  // namespace baton
