// The cache by itself, on states that are filled without a model: what it finds, what it keeps, what it costs.
#include "prefill/prefix_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <string>
#include <vector>

#include "tests/common/state/test_states.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kPlenty = int64_t{1} << 30;
constexpr int kRun = 192;

enum class Family { kGlobal, kWide, kNarrow, kRecurrent };

// Windows that reach beyond a chunk (no cuts are needed), and such that do not.
std::shared_ptr<StateLayout> LayoutOf(Family family) {
  std::vector<LayerStateSpec> layers;
  switch (family) {
    case Family::kGlobal:
      layers = {GlobalLayer(1, 2), GlobalLayer(1, 2)};
      break;
    case Family::kWide:
      layers = {WindowLayer(1, 2, 300), GlobalLayer(1, 2)};
      break;
    case Family::kNarrow:
      layers = {WindowLayer(1, 2, 70), GlobalLayer(1, 2)};
      break;
    case Family::kRecurrent:
      layers = {RecurrentLayer(8, 3), WindowLayer(1, 2, 129)};
      break;
  }
  return MakeLayout(std::move(layers), ElementType::kBF16, kPrefixBlockTokens, kRun);
}

PrefixCacheOptions OptionsOf(int64_t bytes, int64_t snapshot_blocks = 0) {
  PrefixCacheOptions options;
  options.bytes = bytes;
  options.snapshot_blocks = snapshot_blocks;
  return options;
}

std::vector<int32_t> Tokens(int64_t count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> tokens(count);
  for (int32_t& token : tokens) token = static_cast<int32_t>(random() % 1000);
  return tokens;
}

// `common` tokens of one prompt, then others.
std::vector<int32_t> Branch(const std::vector<int32_t>& prompt, int64_t common, int64_t count, uint64_t seed) {
  std::vector<int32_t> tokens = Tokens(count, seed);
  std::copy(prompt.begin(), prompt.begin() + common, tokens.begin());
  return tokens;
}

// A worker without a model: rows depend on the tokens so far, as a model's would.
class Worker {
 public:
  Worker(Family family, const PrefixCacheOptions& options, int64_t memory = kPlenty)
      : layout_(LayoutOf(family)), budget_(memory), cache_(layout_, options, [this](const PrefixHash& hash, bool on) {
          if (on) {
            EXPECT_TRUE(points_.emplace(hash.Short(), true).second);
          } else {
            EXPECT_EQ(points_.erase(hash.Short()), 1u);
          }
        }) {}

  // Runs a prompt; returns how much of it was cached. Checks that the state is as if nothing had been.
  int64_t Run(const std::vector<int32_t>& tokens, const std::string& salt = "", int64_t chunk = kRun) {
    const PrefixKey key("fingerprint", salt, tokens);
    const int64_t length = static_cast<int64_t>(tokens.size());
    const int64_t cached = cache_.Find(key, length - 1);
    absl::StatusOr<SequenceState> state =
        cached > 0 ? cache_.Resume(key, cached, budget_, length) : SequenceState::Create(layout_, budget_, length);
    BATON_CHECK(state.ok());
    std::vector<int64_t> cuts = cache_.CutsFor(key, cached, length - 1, length);
    while (state->position() < length) {
      const auto cut = std::upper_bound(cuts.begin(), cuts.end(), state->position());
      const int64_t end = cut == cuts.end() ? length : *cut;
      Compute(*state, tokens, std::min(chunk, end - state->position()));
      cache_.Add(key, cuts, *state);
    }
    MemoryBudget own(kPlenty);
    SequenceState plain = MakeState(layout_, own, length);
    while (plain.position() < length) Compute(plain, tokens, std::min<int64_t>(kRun, length - plain.position()));
    EXPECT_TRUE(VisibleBytes(*state) == VisibleBytes(plain)) << length << " tokens, " << cached << " cached";
    state = absl::CancelledError();  // its memory is free
    EXPECT_EQ(budget_.used(), cache_.bytes());
    return cached;
  }

  PrefixCache& cache() { return cache_; }
  MemoryBudget& budget() { return budget_; }
  const std::map<uint64_t, bool>& points() const { return points_; }
  const std::shared_ptr<StateLayout>& layout() const { return layout_; }

 private:
  static void Compute(SequenceState& state, const std::vector<int32_t>& tokens, int64_t count) {
    // One position at a time, so that recurrent state does not depend on the run.
    for (int64_t i = 0; i < count; ++i) {
      uint64_t seed = 1;
      const size_t end = static_cast<size_t>(state.position() + 1);
      for (size_t at = end - std::min<size_t>(end, 5); at < end; ++at) seed = seed * 31 + tokens[at];
      RunTokens(state, 1, seed);
    }
  }

  const std::shared_ptr<StateLayout> layout_;
  MemoryBudget budget_;
  std::map<uint64_t, bool> points_;
  PrefixCache cache_;
};

const Family kFamilies[] = {Family::kGlobal, Family::kWide, Family::kNarrow, Family::kRecurrent};

TEST(PrefixCacheTest, OffMeansOff) {
  Worker worker(Family::kGlobal, OptionsOf(0));
  const std::vector<int32_t> prompt = Tokens(300, 1);
  EXPECT_FALSE(worker.cache().enabled());
  EXPECT_EQ(worker.Run(prompt), 0);
  EXPECT_EQ(worker.Run(prompt), 0);
  EXPECT_EQ(worker.budget().used(), 0);
}

TEST(PrefixCacheTest, TheNextTurnGoesOnWhereTheLastPromptEnded) {
  for (const Family family : kFamilies) {
    Worker worker(family, OptionsOf(kPlenty));
    for (const int64_t length : {63, 64, 65, 127, 128, 129, 200, 400}) {
      const std::vector<int32_t> turn = Tokens(length, 100 + length);
      EXPECT_EQ(worker.Run(turn), 0);
      const std::vector<int32_t> next = Branch(turn, length, length + 70, 5);
      EXPECT_EQ(worker.Run(next), length / 64 * 64) << static_cast<int>(family) << " " << length;
    }
  }
}

TEST(PrefixCacheTest, TheLastTokenIsAlwaysComputed) {
  for (const Family family : kFamilies) {
    Worker worker(family, OptionsOf(kPlenty, /*snapshot_blocks=*/1));
    const std::vector<int32_t> prompt = Tokens(192, 1);
    EXPECT_EQ(worker.Run(prompt), 0);
    EXPECT_EQ(worker.Run(prompt), 128) << static_cast<int>(family);
    EXPECT_EQ(worker.cache().Find(PrefixKey("fingerprint", "", prompt), 63), 0);
    EXPECT_EQ(worker.cache().Find(PrefixKey("fingerprint", "", prompt), 192), 192);
  }
}

TEST(PrefixCacheTest, ACommonBeginningIsKeptOnceSeenTwice) {
  for (const Family family : kFamilies) {
    Worker worker(family, OptionsOf(kPlenty));
    const std::vector<int32_t> first = Tokens(420, 1);
    EXPECT_EQ(worker.Run(first), 0);
    // Where it ends was not known then, where a snapshot is needed.
    const int64_t second = worker.Run(Branch(first, 300, 420, 2));
    if (family == Family::kRecurrent) {
      EXPECT_EQ(second, 0);
    } else if (family != Family::kNarrow) {
      EXPECT_EQ(second, 256);
    }
    EXPECT_EQ(worker.Run(Branch(first, 300, 420, 3)), 256) << static_cast<int>(family);
    EXPECT_EQ(worker.Run(Branch(first, 300, 310, 4)), 256);
  }
}

TEST(PrefixCacheTest, SnapshotsOnTheWay) {
  Worker worker(Family::kRecurrent, OptionsOf(kPlenty, /*snapshot_blocks=*/2));
  const std::vector<int32_t> prompt = Tokens(500, 1);
  EXPECT_THAT(worker.cache().CutsFor(PrefixKey("fingerprint", "", prompt), 0, 499, 500),
              ElementsAre(128, 256, 384, 448));
  EXPECT_THAT(worker.cache().CutsFor(PrefixKey("fingerprint", "", prompt), 128, 499, 500), ElementsAre(256, 384, 448));
  EXPECT_THAT(worker.cache().CutsFor(PrefixKey("fingerprint", "", prompt), 0, 62, 63), IsEmpty());
  EXPECT_THAT(worker.cache().CutsFor(PrefixKey("fingerprint", "", prompt), 0, 127, 128), ElementsAre(64, 128));
  EXPECT_THAT(worker.cache().CutsFor(PrefixKey("fingerprint", "", prompt), 0, 130, 130), ElementsAre(128));
  EXPECT_EQ(worker.Run(prompt), 0);
  EXPECT_EQ(worker.points().size(), 4u);
  EXPECT_EQ(worker.Run(Branch(prompt, 300, 500, 2)), 256);
  Worker wide(Family::kWide, OptionsOf(kPlenty, 2));
  EXPECT_THAT(wide.cache().CutsFor(PrefixKey("fingerprint", "", prompt), 0, 499, 500), IsEmpty());
}

// Only what some snapshot's window reaches stays: two and a bit blocks, however long the prompt.
TEST(PrefixCacheTest, RecurrentModelsKeepWindowsNotPrompts) {
  Worker worker(Family::kRecurrent, OptionsOf(kPlenty));
  worker.Run(Tokens(2000, 1));
  const StateLayout& layout = *worker.layout();
  EXPECT_EQ(worker.cache().bytes(), layout.RecurrentBytes(layout.layers[0]) + 2 * layout.PageBytes(layout.layers[1]));
  EXPECT_EQ(worker.cache().blocks(), 31);
}

TEST(PrefixCacheTest, SaltsAndModelsAreApart) {
  for (const Family family : kFamilies) {
    Worker worker(family, OptionsOf(kPlenty));
    const std::vector<int32_t> prompt = Tokens(200, 1);
    EXPECT_EQ(worker.Run(prompt, "a"), 0);
    EXPECT_EQ(worker.Run(prompt, "b"), 0);
    EXPECT_EQ(worker.Run(prompt, ""), 0);
    EXPECT_EQ(worker.Run(prompt, "a"), 192);
    EXPECT_EQ(worker.cache().Find(PrefixKey("other", "a", prompt), 199), 0);
  }
}

// Whoever finds two prompts with equal hashes gains nothing.
TEST(PrefixCacheTest, HashesAreNotBelieved) {
  for (const Family family : kFamilies) {
    Worker worker(family, OptionsOf(kPlenty));
    const std::vector<int32_t> prompt = Tokens(200, 1);
    worker.Run(prompt, "a");
    const std::vector<int32_t> others = Tokens(200, 2);
    PrefixKey forged("fingerprint", "a", others);
    forged.chain = PrefixKey("fingerprint", "a", prompt).chain;
    EXPECT_EQ(worker.cache().Find(forged, 199), 0);
    PrefixKey salted("fingerprint", "b", prompt);
    salted.chain = forged.chain;
    EXPECT_EQ(worker.cache().Find(salted, 199), 0);
    // Nor can it take their place.
    {
      SequenceState state = MakeState(worker.layout(), worker.budget(), 200);
      while (state.position() < 192) RunTokens(state, 64);
      const int64_t cuts[] = {192};
      worker.cache().Add(forged, cuts, state);
    }
    EXPECT_EQ(worker.Run(prompt, "a"), 192);
  }
}

TEST(PrefixCacheTest, StaysWithinItsBytesAndForgetsTheOldest) {
  for (const Family family : kFamilies) {
    const std::vector<int32_t> old = Tokens(330, 1), used = Tokens(330, 2);
    Worker measure(family, OptionsOf(kPlenty));
    measure.Run(old);
    const int64_t one = measure.cache().bytes();
    Worker worker(family, OptionsOf(3 * one));
    worker.Run(old);
    worker.Run(used);
    for (uint64_t seed = 3; seed < 12; ++seed) {
      worker.Run(Tokens(330, seed));
      EXPECT_EQ(worker.Run(used), 320) << static_cast<int>(family);
      EXPECT_LE(worker.cache().bytes(), 3 * one);
    }
    EXPECT_EQ(worker.cache().Find(PrefixKey("fingerprint", "", old), 329), 0);
    EXPECT_GT(worker.cache().evictions(), 0);
  }
}

TEST(PrefixCacheTest, DescendantsGoBeforeTheirAncestors) {
  Worker worker(Family::kGlobal, OptionsOf(kPlenty));
  const std::vector<int32_t> prompt = Tokens(321, 1);
  worker.Run(prompt);
  worker.Run(Branch(prompt, 130, 321, 2));
  const PrefixKey key("fingerprint", "", prompt);
  for (const int64_t left : {256, 192, 128, 128, 128, 128, 64, 0}) {
    EXPECT_TRUE(worker.cache().EvictOne());
    EXPECT_EQ(worker.cache().Find(key, 320), left);
  }
  EXPECT_FALSE(worker.cache().EvictOne());
  EXPECT_EQ(worker.cache().bytes(), 0);
  EXPECT_EQ(worker.budget().used(), 0);
  EXPECT_TRUE(worker.points().empty());
}

TEST(PrefixCacheTest, TakesNothingWhereThereIsNoRoom) {
  for (const Family family : kFamilies) {
    const int64_t state = LayoutOf(family)->BytesFor(600);
    Worker worker(family, OptionsOf(kPlenty, 1), /*memory=*/state + state / 8);
    worker.Run(Tokens(600, 1));
    while (worker.cache().EvictOne()) {
    }
    EXPECT_EQ(worker.budget().used(), 0);
    EXPECT_EQ(worker.cache().blocks(), 0);
  }
}

// Prompts that branch off each other at random, in chunks of any size, with memory for a part of them.
TEST(PrefixCacheTest, RandomConversations) {
  for (const Family family : kFamilies) {
    for (const int64_t snapshot_blocks : {0, 1, 3}) {
      std::mt19937_64 random(7);
      const int64_t bytes = 3 * LayoutOf(family)->BytesFor(500);
      Worker worker(family, OptionsOf(bytes, snapshot_blocks));
      std::vector<std::vector<int32_t>> prompts = {Tokens(400, 1)};
      int64_t cached = 0;
      for (int round = 0; round < 60; ++round) {
        const std::vector<int32_t>& from = prompts[random() % prompts.size()];
        const int64_t common = static_cast<int64_t>(random() % (from.size() + 1));
        const int64_t length = std::max<int64_t>(common + static_cast<int64_t>(random() % 150), 1);
        prompts.push_back(Branch(from, common, length, random()));
        if (prompts.size() > 8) prompts.erase(prompts.begin());
        const int64_t chunk = 1 + static_cast<int64_t>(random() % kRun);
        cached += worker.Run(prompts.back(), random() % 8 == 0 ? "salt" : "", chunk);
        ASSERT_LE(worker.cache().bytes(), bytes);
      }
      EXPECT_GT(cached, 0);
      while (worker.cache().EvictOne()) {
      }
      EXPECT_EQ(worker.cache().bytes(), 0);
      EXPECT_EQ(worker.budget().used(), 0);
      EXPECT_EQ(worker.cache().blocks(), 0);
      EXPECT_TRUE(worker.points().empty());
    }
  }
}

// A state that shares the cache's pages goes on when they are evicted.
TEST(PrefixCacheTest, EvictionTakesNothingFromRunningStates) {
  for (const Family family : kFamilies) {
    Worker worker(family, OptionsOf(kPlenty));
    const std::vector<int32_t> prompt = Tokens(200, 1);
    worker.Run(prompt);
    const PrefixKey key("fingerprint", "", prompt);
    SequenceState state = worker.cache().Resume(key, worker.cache().Find(key, 199), worker.budget(), 400).value();
    const std::string before = VisibleBytes(state);
    while (worker.cache().EvictOne()) {
    }
    SequenceState other = MakeState(worker.layout(), worker.budget(), 400);
    while (other.position() < 400) RunTokens(other, 40, 9);
    EXPECT_TRUE(VisibleBytes(state) == before);
    while (state.position() < 392) RunTokens(state, 50, 3);
  }
}

}  // namespace
}  // namespace baton
