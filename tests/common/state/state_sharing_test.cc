// Forks and snapshots: what every state sees, and what it costs, against a plain model that knows neither pages nor
// sharing.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/compute/rowwise.h"
#include "tests/common/state/test_states.h"

namespace baton {
namespace {

constexpr int64_t kPlenty = 1 << 30;
constexpr int kPage = 4;

// The seed that each position was run with, and nothing else.
using History = std::vector<uint64_t>;

void AppendRow(const std::vector<float>& row, ElementType element, std::string* out) {
  if (element == ElementType::kF32) {
    out->append(reinterpret_cast<const char*>(row.data()), row.size() * sizeof(float));
    return;
  }
  std::vector<uint16_t> rounded(row.size());
  StoreAsBf16(row.data(), static_cast<int64_t>(row.size()), rounded.data());
  out->append(reinterpret_cast<const char*>(rounded.data()), rounded.size() * sizeof(uint16_t));
}

// VisibleBytes of a state with this history, which RunTokens made.
std::string ExpectedBytes(const StateLayout& layout, const History& history) {
  const int64_t position = static_cast<int64_t>(history.size());
  std::string bytes = absl::StrCat(position, ";");
  for (size_t layer = 0; layer < layout.layers.size(); ++layer) {
    const LayerStateSpec& spec = layout.layers[layer];
    if (spec.kind == LayerStateSpec::Kind::kRecurrent) {
      const uint64_t seed = history.empty() ? 0 : history.back();
      for (int i = 0; i < spec.width; ++i) {
        const float value = history.empty() ? 0 : TestValue(seed, layer, position, i) / 3;
        bytes.append(reinterpret_cast<const char*>(&value), sizeof(value));
      }
      for (int i = 0; i < spec.conv_history * spec.width * ElementBytes(layout.element); ++i) {
        bytes.push_back(history.empty() ? 0 : static_cast<char>(8 * TestValue(seed, layer, position, 1000 + i)));
      }
      continue;
    }
    const int64_t begin = layout.FirstNeededPosition(spec, position);
    for (int head = 0; head < spec.kv_heads; ++head) {
      for (const uint64_t values : {0, 77}) {
        for (int64_t at = begin; at < position; ++at) {
          std::vector<float> row;
          for (int i = 0; i < spec.head_dim; ++i) {
            row.push_back(TestValue(history[at] + values, layer, at, head * spec.head_dim + i));
          }
          AppendRow(row, layout.element, &bytes);
        }
      }
    }
  }
  return bytes;
}

// States and snapshots of one budget, each with its history; every operation checks all of them.
class World {
 public:
  World(std::shared_ptr<const StateLayout> layout, int64_t budget) : layout_(std::move(layout)), budget_(budget) {}

  void Create(int64_t max_tokens) { Add(SequenceState::Create(layout_, budget_, max_tokens), {}, "create"); }
  void Fork(size_t at, int64_t max_tokens) {
    Add(states_[at].state.Fork(budget_, max_tokens), states_[at].history, "fork");
  }
  void Restore(size_t at, int64_t max_tokens) {
    Add(SequenceState::FromSnapshot(snapshots_[at].snapshot, budget_, max_tokens), snapshots_[at].history, "restore");
  }
  void Snapshot(size_t at) {
    const int64_t before = budget_.used();
    absl::StatusOr<StateSnapshot> snapshot = states_[at].state.Snapshot();
    if (snapshot.ok()) {
      snapshots_.push_back({*std::move(snapshot), states_[at].history});
    } else {
      EXPECT_EQ(budget_.used(), before);
    }
    Check("snapshot");
  }
  // Up to `tokens`, as far as there is room. Takes nothing that was not reserved.
  void Run(size_t at, int64_t tokens, uint64_t seed, bool prepare) {
    auto& [state, history] = states_[at];
    tokens = std::min({tokens, state.max_tokens() - state.position(), int64_t{layout_->max_run_tokens}});
    if (tokens == 0) return;
    const int64_t before = budget_.used();
    if (prepare) state.PrepareRun(tokens);
    RunTokens(state, tokens, seed);
    history.insert(history.end(), tokens, seed);
    EXPECT_LE(budget_.used(), before);
    Check("run");
  }
  void Reclaim(size_t at) {
    const int64_t before = budget_.used();
    states_[at].state.ReclaimPages();
    EXPECT_LE(budget_.used(), before);
    Check("reclaim");
  }
  void Drop(size_t at) {
    states_.erase(states_.begin() + static_cast<int64_t>(at));
    Check("drop");
  }
  void DropSnapshot(size_t at) {
    snapshots_.erase(snapshots_.begin() + static_cast<int64_t>(at));
    Check("drop snapshot");
  }

  size_t states() const { return states_.size(); }
  size_t snapshots() const { return snapshots_.size(); }
  int64_t position(size_t at) const { return states_[at].state.position(); }
  const MemoryBudget& budget() const { return budget_; }

 private:
  struct Live {
    SequenceState state;
    History history;
  };
  struct Kept {
    StateSnapshot snapshot;
    History history;
  };

  void Add(absl::StatusOr<SequenceState> state, const History& history, const char* what) {
    if (state.ok()) {
      EXPECT_EQ(state->position(), static_cast<int64_t>(history.size()));
      states_.push_back({*std::move(state), history});
    } else {
      EXPECT_TRUE(absl::IsResourceExhausted(state.status()) || absl::IsInvalidArgument(state.status()));
    }
    Check(what);
  }

  void Check(const char* what) {
    std::map<const std::byte*, int64_t> pages;
    int64_t used = 0;
    int64_t recurrent = 0;
    for (const LayerStateSpec& spec : layout_->layers) {
      if (spec.kind == LayerStateSpec::Kind::kRecurrent) recurrent += layout_->RecurrentBytes(spec);
    }
    for (const Live& live : states_) {
      ASSERT_EQ(VisibleBytes(live.state), ExpectedBytes(*layout_, live.history)) << what;
      used += live.state.reserved_bytes() + recurrent;
      for (size_t layer = 0; layer < layout_->layers.size(); ++layer) {
        if (layout_->layers[layer].kind == LayerStateSpec::Kind::kRecurrent) continue;
        for (int64_t page = 0; page * kPage < live.state.max_tokens(); ++page) {
          const PageRef ref = live.state.KvPage(static_cast<int>(layer), page);
          if (ref) pages[ref.data()] = ref.bytes();
        }
      }
    }
    for (const Kept& kept : snapshots_) {
      used += recurrent;
      for (const StateSnapshot::Layer& layer : kept.snapshot.layers) {
        for (const PageRef& page : layer.pages) pages[page.data()] = page.bytes();
      }
    }
    for (const auto& [data, bytes] : pages) used += bytes;
    ASSERT_EQ(budget_.used(), used) << what;
    ASSERT_LE(budget_.used(), budget_.total()) << what;
  }

  const std::shared_ptr<const StateLayout> layout_;
  MemoryBudget budget_;
  std::vector<Live> states_;
  std::vector<Kept> snapshots_;
};

std::vector<std::shared_ptr<StateLayout>> Layouts(int run) {
  std::vector<std::shared_ptr<StateLayout>> layouts;
  for (const int64_t visible : {1, 2, 4, 5, 9}) {
    layouts.push_back(MakeLayout({GlobalLayer(2, 4), WindowLayer(1, 6, visible), RecurrentLayer(10, 3)},
                                 run % 2 == 0 ? ElementType::kF32 : ElementType::kBF16, kPage, run));
    layouts.push_back(MakeLayout({WindowLayer(1, 2, visible)}, ElementType::kBF16, kPage, run));
  }
  layouts.push_back(MakeLayout({GlobalLayer(1, 2)}, ElementType::kBF16, kPage, run));
  layouts.push_back(MakeLayout({RecurrentLayer(5, 3)}, ElementType::kBF16, kPage, run));
  return layouts;
}

TEST(StateSharingTest, RandomLivesAgreeWithThePlainModel) {
  std::mt19937_64 random(1);
  const auto below = [&](uint64_t n) { return static_cast<int64_t>(random() % n); };
  for (const int run : {1, 2, 3, 4, 7}) {
    for (const auto& layout : Layouts(run)) {
      for (const bool tight : {false, true}) {
        World world(layout, tight ? 3 * layout->BytesFor(30) : kPlenty);
        for (int step = 0; step < 150; ++step) {
          const int64_t states = static_cast<int64_t>(world.states());
          const int64_t snapshots = static_cast<int64_t>(world.snapshots());
          const int64_t action = below(20);
          if (states == 0 || (action == 0 && states < 8))
            world.Create(1 + below(40));
          else if (action <= 2 && states < 8)
            world.Fork(below(states), below(45));
          else if (action == 3 && snapshots < 6)
            world.Snapshot(below(states));
          else if (action == 4 && snapshots > 0 && states < 8)
            world.Restore(below(snapshots), below(45));
          else if (action == 5)
            world.Drop(below(states));
          else if (action == 6 && snapshots > 0)
            world.DropSnapshot(below(snapshots));
          else if (action == 7)
            world.Reclaim(below(states));
          else
            world.Run(below(states), 1 + below(run), random(), action % 2 == 0);
          if (testing::Test::HasFatalFailure()) return;
        }
        // What was reserved suffices to the end, whoever shares what.
        for (size_t i = 0; i < world.states(); ++i) {
          for (int64_t step = 0; step < 45; ++step) world.Run(i, run, random(), step % 2 == 0);
        }
        while (world.states() > 0) world.Drop(world.states() - 1);
        while (world.snapshots() > 0) world.DropSnapshot(0);
        ASSERT_EQ(world.budget().used(), 0);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

// Every position to fork at, every party to go first, every length to go on for.
TEST(StateSharingTest, ForksAtEveryPosition) {
  for (const auto& layout : Layouts(/*run=*/3)) {
    for (int64_t position = 0; position <= 21; ++position) {
      for (const bool parent_first : {false, true}) {
        World world(layout, kPlenty);
        world.Create(30);
        while (world.position(0) < position) world.Run(0, std::min<int64_t>(3, position - world.position(0)), 1, true);
        world.Fork(0, 28);
        world.Fork(0, position);  // room for nothing more: refused only at 0
        ASSERT_EQ(world.states(), position == 0 ? 2u : 3u);
        for (int step = 0; step < 4; ++step) {
          world.Run(parent_first ? 0 : 1, 2, 2, false);
          world.Run(parent_first ? 1 : 0, 2, 3, true);
        }
        world.Drop(0);
        for (int step = 0; step < 15; ++step) world.Run(0, 2, 4, true);
        while (world.states() > 0) world.Drop(0);
        ASSERT_EQ(world.budget().used(), 0);
        if (testing::Test::HasFatalFailure()) return;
      }
    }
  }
}

TEST(StateSharingTest, AForkSharesItsPast) {
  auto layout = MakeLayout({GlobalLayer(1, 32)}, ElementType::kBF16, kPage);
  MemoryBudget budget(kPlenty);
  const int64_t page = layout->PageBytes(layout->layers[0]);
  SequenceState state = MakeState(layout, budget, 10 * kPage);
  for (int i = 0; i < 9 * kPage + 1; ++i) RunTokens(state, 1);
  SequenceState fork = state.Fork(budget, 12 * kPage).value();
  // Nine pages are shared; of the tenth, either may need a copy; two more are the fork's.
  EXPECT_EQ(budget.used(), (10 + 1 + 1 + 2) * page);
  EXPECT_EQ(fork.bytes(), 3 * page);
  EXPECT_EQ(fork.KvPage(0, 8).data(), state.KvPage(0, 8).data());
  RunTokens(fork, 1);
  EXPECT_NE(fork.KvPage(0, 9).data(), state.KvPage(0, 9).data());
  RunTokens(state, 1);  // writes in place: the other has its copy
  EXPECT_EQ(budget.used(), (10 + 1 + 2) * page);
}

// Copies that come and go, as periodic checkpoints do, leave a state as it was without them.
TEST(StateSharingTest, ReclaimedPagesCostNothing) {
  for (const auto& layout : Layouts(/*run=*/2)) {
    MemoryBudget budget(kPlenty);
    MemoryBudget other(kPlenty);
    SequenceState state = MakeState(layout, budget, 60);
    SequenceState undisturbed = MakeState(layout, other, 60);
    for (int i = 0; i < 60; ++i) {
      RunTokens(state, 1);
      RunTokens(undisturbed, 1);
      absl::StatusOr<SequenceState> copy = state.Fork(budget, state.position());
      ASSERT_TRUE(copy.ok());
      if (i % 3 == 0) state.ReclaimPages();  // too early: nothing is
      EXPECT_EQ(VisibleBytes(*copy), VisibleBytes(undisturbed));
      copy = absl::UnavailableError("gone");
      if (i % 2 == 0) state.ReclaimPages();
      if (i % 2 == 0) {
        ASSERT_LE(budget.used(), other.used()) << i;
      }
    }
    EXPECT_EQ(VisibleBytes(state), VisibleBytes(undisturbed));
  }
}

TEST(StateSharingTest, AForkThatDoesNotFitChangesNothing) {
  auto layout = MixedLayout(ElementType::kBF16, kPage);
  MemoryBudget budget(layout->BytesFor(30) + layout->BytesFor(30) / 4);
  SequenceState state = MakeState(layout, budget, 30);
  for (int i = 0; i < 11; ++i) RunTokens(state, 1);
  const std::string before = VisibleBytes(state);
  const int64_t used = budget.used();
  EXPECT_TRUE(absl::IsResourceExhausted(state.Fork(budget, 300).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(state.Fork(budget, 10).status()));
  EXPECT_EQ(budget.used(), used);
  EXPECT_EQ(VisibleBytes(state), before);
  for (int i = 0; i < 19; ++i) RunTokens(state, 1);
  EXPECT_LE(budget.used(), used);
}

TEST(StateSharingTest, ManyForksCostTheirFuturesOnly) {
  auto layout = MakeLayout({GlobalLayer(1, 32), RecurrentLayer(64, 3)}, ElementType::kBF16, kPage);
  const int64_t page = layout->PageBytes(layout->layers[0]);
  const int64_t recurrent = layout->RecurrentBytes(layout->layers[1]);
  MemoryBudget budget(kPlenty);
  SequenceState state = MakeState(layout, budget, 100 * kPage);
  for (int i = 0; i < 100 * kPage - 2; ++i) RunTokens(state, 1);
  std::vector<SequenceState> forks;
  for (int i = 0; i < 64; ++i) forks.push_back(state.Fork(budget, 101 * kPage).value());
  EXPECT_EQ(budget.used(), 100 * page + recurrent + page + 64 * (2 * page + recurrent));
  for (SequenceState& fork : forks) {
    for (int i = 0; i < 6; ++i) RunTokens(fork, 1, /*seed=*/reinterpret_cast<uintptr_t>(&fork));
  }
  EXPECT_EQ(budget.used(), 100 * page + recurrent + page + 64 * (2 * page + recurrent));
  forks.clear();
  EXPECT_EQ(budget.used(), 100 * page + recurrent + page);
}

// A transfer holds pages while their state goes on, and longer than the state.
TEST(StateSharingTest, ReadersKeepWhatTheyRead) {
  auto layout = MakeLayout({GlobalLayer(1, 32), WindowLayer(1, 32, 5)}, ElementType::kBF16, kPage);
  const int64_t page = layout->PageBytes(layout->layers[0]);
  MemoryBudget budget(layout->BytesFor(40));
  std::vector<PageRef> held;
  {
    SequenceState state = MakeState(layout, budget, 40);
    std::vector<std::string> contents;
    for (int i = 0; i < 40; ++i) {
      RunTokens(state, 1);
      if (i % kPage != kPage - 1) continue;
      for (const int layer : {0, 1}) {
        held.push_back(state.KvPage(layer, i / kPage));
        contents.emplace_back(reinterpret_cast<const char*>(held.back().data()), held.back().bytes());
      }
    }
    EXPECT_FALSE(state.KvPage(1, 0));   // has left the window
    EXPECT_FALSE(state.KvPage(0, 10));  // not reached
    EXPECT_FALSE(state.KvPage(0, -1));
    for (size_t i = 0; i < held.size(); ++i) {
      EXPECT_EQ(std::string(reinterpret_cast<const char*>(held[i].data()), held[i].bytes()), contents[i]);
    }
  }
  EXPECT_EQ(budget.used(), 20 * page);
  held.clear();
  EXPECT_EQ(budget.used(), 0);
}

TEST(StateSharingTest, CyclesOfCancelledSequencesLeaveNothing) {
  auto layout = MixedLayout(ElementType::kBF16, kPage, /*max_run_tokens=*/4);
  MemoryBudget budget(8 * layout->BytesFor(40));
  std::mt19937_64 random(5);
  for (int cycle = 0; cycle < 5000; ++cycle) {
    SequenceState state = MakeState(layout, budget, 40);
    const int64_t tokens = static_cast<int64_t>(random() % 40);
    while (state.position() + 4 <= tokens) RunTokens(state, 4);
    absl::StatusOr<SequenceState> fork = state.Fork(budget, 40);
    ASSERT_TRUE(fork.ok());
    RunTokens(*fork, 1, /*seed=*/2);
  }
  EXPECT_EQ(budget.used(), 0);
  EXPECT_LE(budget.idle_bytes(), budget.total());
}

// Each state on a thread of its own: what they share is read by all and written by none.
TEST(StateSharingTest, ForksRunOnThreadsOfTheirOwn) {
  auto layout = MixedLayout(ElementType::kBF16, kPage, /*max_run_tokens=*/2);
  MemoryBudget budget(kPlenty);
  SequenceState state = MakeState(layout, budget, 200);
  for (int i = 0; i < 31; ++i) RunTokens(state, 1);
  std::vector<SequenceState> forks;
  for (int i = 0; i < 4; ++i) forks.push_back(state.Fork(budget, 200).value());
  const StateSnapshot snapshot = state.Snapshot().value();
  forks.push_back(SequenceState::FromSnapshot(snapshot, budget, 200).value());
  forks.push_back(std::move(state));
  std::vector<std::thread> threads;
  for (size_t i = 0; i < forks.size(); ++i) {
    threads.emplace_back([&, i] {
      History history(31, 1);
      for (int step = 0; step < 80; ++step) {
        RunTokens(forks[i], 2, /*seed=*/i + 10);
        history.insert(history.end(), 2, i + 10);
        if (step % 20 == 0) {
          EXPECT_EQ(VisibleBytes(forks[i]), ExpectedBytes(*layout, history));
        }
      }
      EXPECT_EQ(VisibleBytes(forks[i]), ExpectedBytes(*layout, history));
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(VisibleBytes(SequenceState::FromSnapshot(snapshot, budget, 40).value()),
            ExpectedBytes(*layout, History(31, 1)));
}

}  // namespace
}  // namespace baton
