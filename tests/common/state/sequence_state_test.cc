#include "common/state/sequence_state.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <thread>
#include <utility>
#include <vector>

#include "tests/common/state/test_states.h"

// The sanitizers' allocators, like the system's, say no to what is too much instead of ending the test.
extern "C" const char* __asan_default_options() { return "allocator_may_return_null=1"; }
extern "C" const char* __tsan_default_options() { return "allocator_may_return_null=1"; }

namespace baton {
namespace {

constexpr int64_t kPlenty = 1 << 30;

float Element(const SequenceState& state, const std::byte* row, int64_t index) {
  if (state.layout().element == ElementType::kF32) {
    float value;
    std::memcpy(&value, row + 4 * index, sizeof(value));
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, row + 2 * index, sizeof(bits));
  return std::bit_cast<float>(uint32_t{bits} << 16);
}

TEST(SequenceStateTest, TakesExactlyWhatTheLayoutSays) {
  MemoryBudget budget(kPlenty);
  auto layout = MixedLayout();
  {
    SequenceState state = MakeState(layout, budget, 50);
    EXPECT_EQ(state.bytes(), layout->BytesFor(50));
    EXPECT_EQ(budget.used(), layout->BytesFor(50));
    RunTokens(state, 1);
    SequenceState moved = std::move(state);
    EXPECT_EQ(moved.position(), 1);
    EXPECT_EQ(budget.used(), layout->BytesFor(50));
  }
  EXPECT_EQ(budget.used(), 0);
}

TEST(SequenceStateTest, RefusesWhatDoesNotFit) {
  auto layout = MixedLayout();
  MemoryBudget budget(layout->BytesFor(50));
  EXPECT_TRUE(absl::IsResourceExhausted(SequenceState::Create(layout, budget, 51 + 8).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(SequenceState::Create(layout, budget, 0).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(SequenceState::Create(layout, budget, -3).status()));
  EXPECT_TRUE(
      absl::IsResourceExhausted(SequenceState::Create(layout, budget, std::numeric_limits<int64_t>::max()).status()));
  EXPECT_EQ(budget.used(), 0);
  EXPECT_TRUE(SequenceState::Create(layout, budget, 50).ok());
}

TEST(SequenceStateTest, ABudgetBeyondTheMachineIsAnErrorNotACrash) {
  MemoryBudget budget(std::numeric_limits<int64_t>::max());
  EXPECT_TRUE(absl::IsResourceExhausted(
      SequenceState::Create(MixedLayout(), budget, std::numeric_limits<int64_t>::max()).status()));
  EXPECT_TRUE(absl::IsResourceExhausted(
      SequenceState::Create(MakeLayout({WindowLayer(64, 256, int64_t{1} << 40)}), budget, int64_t{1} << 40).status()));
  EXPECT_EQ(budget.used(), 0);
}

TEST(SequenceStateTest, RecurrentStateBeginsAtZero) {
  MemoryBudget budget(kPlenty);
  SequenceState state = MakeState(MixedLayout(), budget, 4);
  ASSERT_EQ(state.RgLruState(2).size(), 10u);
  ASSERT_EQ(state.ConvState(2).size(), 3u * 10 * 2);
  for (float value : state.RgLruState(2)) EXPECT_EQ(value, 0);
  for (std::byte value : state.ConvState(2)) EXPECT_EQ(value, std::byte{0});
}

// Reads every visible row back through spans, for lengths around window and page edges.
TEST(SequenceStateTest, SpansGiveBackWhatWasWritten) {
  for (ElementType element : {ElementType::kF32, ElementType::kBF16}) {
    for (int run : {1, 3}) {
      MemoryBudget budget(kPlenty);
      auto layout = MixedLayout(element, /*page_tokens=*/8, run);
      SequenceState state = MakeState(layout, budget, 30);
      while (state.position() + run <= 30) {
        RunTokens(state, run);
        for (int layer : {0, 1}) {
          const LayerStateSpec& spec = layout->layers[layer];
          const int64_t end = state.position();
          const int64_t begin = state.FirstNeededPosition(layer, end);
          for (int head = 0; head < spec.kv_heads; ++head) {
            int64_t next = begin;
            state.ForEachKvSpan(layer, head, begin, end, [&](const KvSpan& span) {
              EXPECT_EQ(span.first_position, next);
              ASSERT_GT(span.count, 0);
              for (int64_t i = 0; i < span.count; ++i, ++next) {
                for (int64_t d = 0; d < spec.head_dim; ++d) {
                  const int64_t at = head * spec.head_dim + d;
                  EXPECT_EQ(Element(state, span.keys, i * spec.head_dim + d), TestValue(1, layer, next, at));
                  EXPECT_EQ(Element(state, span.values, i * spec.head_dim + d), TestValue(78, layer, next, at));
                }
              }
            });
            EXPECT_EQ(next, end);
          }
        }
      }
    }
  }
}

// From every position and to every length: what is taken is what a state made for that length takes, and it goes on as
// such a state would.
TEST(SequenceStateTest, ExtendedStatesAreAsIfMadeThatLong) {
  for (const int64_t from : {1, 5, 8, 9, 16, 23}) {
    for (const int64_t to : {from, from + 1, from + 8, int64_t{60}}) {
      MemoryBudget budget(kPlenty);
      const auto layout = MixedLayout();
      {
        SequenceState state = MakeState(layout, budget, from);
        for (int64_t i = 0; i < from; ++i) RunTokens(state, 1);
        ASSERT_TRUE(state.Extend(to).ok());
        EXPECT_EQ(state.max_tokens(), to);
        EXPECT_EQ(state.bytes(), layout->BytesFor(to)) << from << " to " << to;
        EXPECT_EQ(budget.used(), layout->BytesFor(to));
        SequenceState whole = MakeState(layout, budget, to);
        for (int64_t i = 0; i < to; ++i) RunTokens(whole, 1);
        while (state.position() < to) RunTokens(state, 1);
        EXPECT_EQ(VisibleBytes(state), VisibleBytes(whole));
      }
      EXPECT_EQ(budget.used(), 0);
    }
  }
}

TEST(SequenceStateTest, ExtendingBeyondTheBudgetChangesNothing) {
  const auto layout = MixedLayout();
  MemoryBudget budget(layout->BytesFor(16));
  SequenceState state = MakeState(layout, budget, 16);
  for (int i = 0; i < 16; ++i) RunTokens(state, 1);
  const std::string before = VisibleBytes(state);
  EXPECT_TRUE(absl::IsResourceExhausted(state.Extend(17)));
  EXPECT_EQ(state.max_tokens(), 16);
  EXPECT_EQ(VisibleBytes(state), before);
  EXPECT_EQ(budget.used(), layout->BytesFor(16));
}

TEST(SequenceStateTest, AForkCanBeExtendedWhileItsPagesAreShared) {
  MemoryBudget budget(kPlenty);
  {
    const auto layout = MixedLayout();
    SequenceState state = MakeState(layout, budget, 20);
    for (int i = 0; i < 19; ++i) RunTokens(state, 1);
    auto fork = state.Fork(budget, 20);
    ASSERT_TRUE(fork.ok()) << fork.status();
    ASSERT_TRUE(fork->Extend(64).ok());
    while (fork->position() < 64) RunTokens(*fork, 1);
    SequenceState whole = MakeState(layout, budget, 64);
    while (whole.position() < 64) RunTokens(whole, 1);
    EXPECT_EQ(VisibleBytes(*fork), VisibleBytes(whole));
    RunTokens(state, 1);
  }
  EXPECT_EQ(budget.used(), 0);
}

TEST(SequenceStateTest, ForksComeOutOfRoomThatWasSetAside) {
  const auto layout = MixedLayout();
  const int64_t forks = layout->ForkBytes(13, 30, 3);
  MemoryBudget budget(layout->BytesFor(30) + forks);
  SequenceState state = MakeState(layout, budget, 30);
  for (int i = 0; i < 13; ++i) RunTokens(state, 1);
  MemoryReservation room = budget.Reserve(forks).value();
  std::vector<SequenceState> all;
  for (int i = 0; i < 3; ++i) {
    auto fork = state.Fork(budget, room, 30);
    ASSERT_TRUE(fork.ok()) << fork.status();
    all.push_back(*std::move(fork));
  }
  EXPECT_EQ(room.bytes(), 0);
  EXPECT_TRUE(absl::IsResourceExhausted(state.Fork(budget, room, 30).status()));
}

TEST(SequenceStateTest, ARunIsWrittenBeforeItsFirstQueryLosesItsOldestKey) {
  MemoryBudget budget(kPlenty);
  const int run = 4;
  const int64_t visible = 5;
  auto layout = MakeLayout({WindowLayer(1, 2, visible)}, ElementType::kF32, 8, run);
  SequenceState state = MakeState(layout, budget, 100);
  while (state.position() + run <= 100) {
    const int64_t begin = state.position();
    for (int64_t position = begin; position < begin + run; ++position) {
      const float row[2] = {static_cast<float>(position), 0.5f};
      state.WriteKv(0, position, row, row);
    }
    for (int64_t query = begin; query < begin + run; ++query) {
      int64_t next = std::max<int64_t>(0, query - (visible - 1));
      state.ForEachKvSpan(0, 0, next, query + 1, [&](const KvSpan& span) {
        for (int64_t i = 0; i < span.count; ++i, ++next) EXPECT_EQ(Element(state, span.keys, 2 * i), next);
      });
      EXPECT_EQ(next, query + 1);
    }
    state.Advance(run);
  }
}

TEST(SequenceStateTest, PagesAreSpansOfTheirOwn) {
  MemoryBudget budget(kPlenty);
  SequenceState state = MakeState(MakeLayout({GlobalLayer(1, 4)}, ElementType::kBF16, 8), budget, 20);
  for (int i = 0; i < 20; ++i) RunTokens(state, 1);
  std::vector<int64_t> counts;
  state.ForEachKvSpan(0, 0, 3, 20, [&](const KvSpan& span) { counts.push_back(span.count); });
  EXPECT_EQ(counts, (std::vector<int64_t>{5, 8, 4}));
  state.ForEachKvSpan(0, 0, 7, 7, [&](const KvSpan&) { ADD_FAILURE() << "an empty range has no spans"; });
}

TEST(SequenceStateTest, RoundsToNearestEven) {
  MemoryBudget budget(kPlenty);
  SequenceState state = MakeState(MakeLayout({GlobalLayer(1, 8)}), budget, 1);
  const float inf = std::numeric_limits<float>::infinity();
  const float k[8] = {std::bit_cast<float>(0x3F808000u),  // a tie: to even, down
                      std::bit_cast<float>(0x3F818000u),  // a tie: to even, up
                      std::bit_cast<float>(0x3F808001u),
                      -0.0f,
                      std::bit_cast<float>(0x7F7FFFFFu),  // rounds to infinity
                      -inf,
                      std::bit_cast<float>(0x7F800001u),
                      std::bit_cast<float>(0xFFFFFFFFu)};
  const float v[8] = {};
  state.WriteKv(0, 0, k, v);
  const std::byte* row = state.MutableKeyRow(0, 0, 0);
  uint16_t bits[8];
  std::memcpy(bits, row, sizeof(bits));
  EXPECT_EQ(bits[0], 0x3F80);
  EXPECT_EQ(bits[1], 0x3F82);
  EXPECT_EQ(bits[2], 0x3F81);
  EXPECT_EQ(bits[3], 0x8000);
  EXPECT_EQ(bits[4], 0x7F80);
  EXPECT_EQ(bits[5], 0xFF80);
  EXPECT_TRUE(std::isnan(Element(state, row, 6)));
  EXPECT_TRUE(std::isnan(Element(state, row, 7)));
}

TEST(SequenceStateTest, PagesBeginAtCacheLines) {
  MemoryBudget budget(kPlenty);
  SequenceState state = MakeState(MixedLayout(), budget, 30);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(state.MutableKeyRow(0, 0, 0)) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(state.MutableKeyRow(0, 0, 8)) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(state.MutableKeyRow(1, 0, 0)) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(state.RgLruState(2).data()) % 64, 0u);
}

// Kernels may write a run's rows in parallel, also those of a page that nobody has touched yet.
TEST(SequenceStateTest, RowsOfANewPageCanBeWrittenInParallel) {
  MemoryBudget budget(kPlenty);
  auto layout = MakeLayout({GlobalLayer(1, 16)}, ElementType::kF32, /*page_tokens=*/64, /*max_run_tokens=*/64);
  SequenceState state = MakeState(layout, budget, 64 * 50);
  for (int page = 0; page < 50; ++page) {
    const int64_t begin = state.position();
    state.PrepareRun(64);
    std::vector<std::thread> threads;
    for (int thread = 0; thread < 4; ++thread) {
      threads.emplace_back([&, thread] {
        for (int64_t position = begin + thread; position < begin + 64; position += 4) {
          const std::vector<float> row(16, static_cast<float>(position));
          state.WriteKv(0, position, row, row);
        }
      });
    }
    for (std::thread& thread : threads) thread.join();
    state.Advance(64);
  }
  int64_t next = 0;
  state.ForEachKvSpan(0, 0, 0, state.position(), [&](const KvSpan& span) {
    for (int64_t i = 0; i < span.count; ++i, ++next) EXPECT_EQ(Element(state, span.values, 16 * i + 15), next);
  });
}

using SequenceStateDeathTest = ::testing::Test;

TEST(SequenceStateDeathTest, MisuseIsCaught) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  MemoryBudget budget(kPlenty);
  SequenceState state = MakeState(MixedLayout(), budget, 10);
  const std::vector<float> row(8);
  EXPECT_DEATH(state.WriteKv(0, 1, row, row), "check failed");                           // beyond the run
  EXPECT_DEATH(state.WriteKv(0, -1, row, row), "check failed");                          // no such position
  EXPECT_DEATH(state.WriteKv(0, 0, absl::MakeSpan(row).first(7), row), "check failed");  // wrong width
  EXPECT_DEATH(state.MutableKeyRow(0, 2, 0), "check failed");                            // no such head
  EXPECT_DEATH(state.MutableKeyRow(0, 0, 10), "check failed");                           // beyond the reservation
  EXPECT_DEATH(state.MutableKeyRow(2, 0, 0), "check failed");                            // not a KV layer
  EXPECT_DEATH(state.RgLruState(0), "check failed");                                     // not a recurrent layer
  EXPECT_DEATH(state.Advance(11), "check failed");
  EXPECT_DEATH(state.SetPosition(11), "check failed");
  EXPECT_DEATH(state.PrepareRun(2), "check failed");                                    // longer than any run
  EXPECT_DEATH(state.ForEachKvSpan(0, 0, 0, 1, [](const KvSpan&) {}), "check failed");  // never written
}

}  // namespace
}  // namespace baton
