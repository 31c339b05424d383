#include "common/state/spilled_state.h"

#include <sys/resource.h>

#include <csignal>
#include <filesystem>
#include <string>

#include <gtest/gtest.h>

#include "tests/common/state/test_states.h"
#include "tests/temporary_directory.h"

namespace baton {
namespace {

constexpr int64_t kPlenty = 1 << 30;
constexpr int32_t kNext = 17;

std::shared_ptr<StateLayout> AnyLayout(ElementType element) { return MixedLayout(element, /*page_tokens=*/8); }

// Around page and window edges, for both element types.
TEST(SpilledStateTest, ComesBackBitForBit) {
  const TemporaryDirectory directory;
  for (ElementType element : {ElementType::kF32, ElementType::kBF16}) {
    for (const int64_t tokens : {1, 4, 5, 7, 8, 9, 16, 40}) {
      MemoryBudget budget(kPlenty);
      const auto layout = AnyLayout(element);
      SequenceState state = MakeState(layout, budget, 50);
      for (int64_t i = 0; i < tokens; ++i) RunTokens(state, 1);
      const auto spilled = SpillState(directory.path(), TestFingerprint(), state, kNext);
      ASSERT_TRUE(spilled.ok()) << spilled.status();
      EXPECT_GT(spilled->bytes(), 0);
      EXPECT_TRUE(std::filesystem::is_empty(directory.path())) << "the file has no name";
      for (int again = 0; again < 2; ++again) {
        SequenceState restored = MakeState(layout, budget, 60);
        const absl::Status status = RestoreState(*spilled, TestFingerprint(), kNext, &restored);
        ASSERT_TRUE(status.ok()) << status;
        EXPECT_EQ(VisibleBytes(restored), VisibleBytes(state));
        RunTokens(restored, 1);
      }
    }
  }
}

TEST(SpilledStateTest, AStateLargerThanOnePartComesBackToo) {
  const TemporaryDirectory directory;
  MemoryBudget budget(kPlenty);
  const auto layout = MakeLayout({GlobalLayer(8, 256), RecurrentLayer(100, 3)}, ElementType::kF32, 64);
  SequenceState state = MakeState(layout, budget, 300);
  for (int i = 0; i < 300; ++i) RunTokens(state, 1);
  const auto spilled = SpillState(directory.path(), TestFingerprint(), state, kNext);
  ASSERT_TRUE(spilled.ok()) << spilled.status();
  EXPECT_GT(spilled->bytes(), 2 << 20);
  SequenceState restored = MakeState(layout, budget, 301);
  const absl::Status status = RestoreState(*spilled, TestFingerprint(), kNext, &restored);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(VisibleBytes(restored), VisibleBytes(state));
}

TEST(SpilledStateTest, AnotherModelsOrTokensFileIsDataLoss) {
  const TemporaryDirectory directory;
  MemoryBudget budget(kPlenty);
  SequenceState state = MakeState(AnyLayout(ElementType::kBF16), budget, 50);
  RunTokens(state, 1);
  const auto spilled = SpillState(directory.path(), TestFingerprint(), state, kNext);
  ASSERT_TRUE(spilled.ok()) << spilled.status();
  SequenceState restored = MakeState(state.shared_layout(), budget, 50);
  EXPECT_TRUE(absl::IsDataLoss(RestoreState(*spilled, TestFingerprint(9), kNext, &restored)));
  SequenceState again = MakeState(state.shared_layout(), budget, 50);
  EXPECT_TRUE(absl::IsDataLoss(RestoreState(*spilled, TestFingerprint(), kNext + 1, &again)));
}

TEST(SpilledStateTest, AMissingDirectoryIsNamed) {
  MemoryBudget budget(kPlenty);
  SequenceState state = MakeState(AnyLayout(ElementType::kBF16), budget, 50);
  RunTokens(state, 1);
  const absl::Status status = SpillState("/nowhere/at/all", TestFingerprint(), state, kNext).status();
  EXPECT_TRUE(absl::IsNotFound(status)) << status;
  EXPECT_NE(std::string(status.message()).find("/nowhere/at/all"), std::string::npos);
}

TEST(SpilledStateTest, AFullDiskIsAnError) {
  const TemporaryDirectory directory;
  MemoryBudget budget(kPlenty);
  SequenceState state = MakeState(AnyLayout(ElementType::kBF16), budget, 50);
  RunTokens(state, 1);
  // What a disk that takes 100 bytes says, but for the signal.
  rlimit before;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const rlimit small = {100, before.rlim_max};
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
  const absl::Status status = SpillState(directory.path(), TestFingerprint(), state, kNext).status();
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &before), 0);
  std::signal(SIGXFSZ, handler);
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  // The state is whole.
  EXPECT_TRUE(SpillState(directory.path(), TestFingerprint(), state, kNext).ok());
}

}  // namespace
}  // namespace baton
