// What forks are reserved for is what they need, wherever they are made.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>
#include <utility>
#include <vector>

#include "tests/common/state/test_states.h"

namespace baton {
namespace {

struct Case {
  const char* name;
  std::vector<LayerStateSpec> layers;
};

class ForkBytesTest : public ::testing::TestWithParam<Case> {};

TEST_P(ForkBytesTest, IsEnoughToTheByte) {
  const std::shared_ptr<StateLayout> layout =
      MakeLayout(GetParam().layers, ElementType::kBF16, /*page_tokens=*/4, /*max_run_tokens=*/1);
  for (const int64_t max_tokens : {2, 5, 8, 13, 30}) {
    for (int64_t position = 1; position < max_tokens; ++position) {
      for (const int forks : {0, 1, 5}) {
        const int64_t bytes = layout->BytesFor(max_tokens) + layout->ForkBytes(position, max_tokens, forks);
        MemoryBudget budget(bytes);
        std::vector<SequenceState> states;
        states.push_back(MakeState(layout, budget, max_tokens));
        for (int64_t i = 0; i < position; ++i) RunTokens(states[0], 1);
        for (int i = 0; i < forks; ++i) {
          absl::StatusOr<SequenceState> fork = states[0].Fork(budget, max_tokens);
          ASSERT_TRUE(fork.ok()) << fork.status() << " fork " << i << " at " << position << " of " << max_tokens;
          states.push_back(*std::move(fork));
        }
        EXPECT_LE(budget.used(), bytes);
        // Of a window that moves on, pages that nobody needs any more may have been given back already.
        const bool windows = std::any_of(layout->layers.begin(), layout->layers.end(), [](const auto& layer) {
          return layer.kind == LayerStateSpec::Kind::kWindowKv;
        });
        if (!windows) {
          EXPECT_EQ(budget.used(), bytes) << forks << " forks at " << position << " of " << max_tokens;
        }
        for (SequenceState& state : states) {
          while (state.position() < max_tokens) RunTokens(state, 1);
          EXPECT_LE(budget.used(), bytes);
        }
        states.clear();
        EXPECT_EQ(budget.used(), 0);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, ForkBytesTest,
                         ::testing::Values(Case{"Global", {GlobalLayer(1, 2)}}, Case{"Window", {WindowLayer(1, 2, 5)}},
                                           Case{"WideWindow", {WindowLayer(1, 2, 16)}},
                                           Case{"Recurrent", {RecurrentLayer(6, 3)}},
                                           Case{"Gemma2", {WindowLayer(2, 4, 9), GlobalLayer(2, 4)}},
                                           Case{"RecurrentGemma", {RecurrentLayer(6, 3), WindowLayer(1, 4, 10)}}),
                         [](const auto& info) { return info.param.name; });

TEST(ForkBytesTest, ManySamplesOfALongPromptTakeLittleMore) {
  // The shapes of Gemma 2 2B and RecurrentGemma 2B in bfloat16: bytes by the formulas of docs/state-format.md.
  StateLayout gemma;
  for (int i = 0; i < 26; ++i) gemma.layers.push_back(i % 2 == 0 ? WindowLayer(4, 256, 4096) : GlobalLayer(4, 256));
  const int64_t page = 64 * 2 * 4 * 256 * 2;
  EXPECT_EQ(gemma.BytesFor(2048 + 64), 26 * 33 * page);
  // Each fork owns the page that it writes: one in each layer.
  EXPECT_EQ(gemma.ForkBytes(2048, 2048 + 64, 63), 63 * 26 * page);
  EXPECT_LT(gemma.BytesFor(2112) + gemma.ForkBytes(2048, 2112, 63), 64 * gemma.BytesFor(2112) / 20);

  StateLayout recurrent;
  for (int i = 0; i < 26; ++i) {
    recurrent.layers.push_back(i % 3 == 2 ? WindowLayer(1, 256, 2049) : RecurrentLayer(2560, 3));
  }
  const int64_t vectors = 18 * (2560 * 4 + 3 * 2560 * 2);
  const int64_t recurrent_page = 64 * 2 * 256 * 2;
  EXPECT_EQ(recurrent.ForkBytes(2048, 2048 + 64, 63), 63 * (vectors + 8 * recurrent_page));
}

}  // namespace
}  // namespace baton
