#include "prefill/prompt_scheduler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <random>
#include <vector>

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

bool Always(uint64_t) { return true; }

PromptEntry Entry(uint64_t id, int64_t tokens, int priority = 0, double arrival = 0) {
  PromptEntry entry;
  entry.id = id;
  entry.tokens = tokens;
  entry.first_logit_row = tokens - 1;
  entry.priority = priority;
  entry.arrival_seconds = arrival;
  return entry;
}

PromptSchedulerOptions Options(int64_t tokens, int64_t rows = 64) {
  PromptSchedulerOptions options;
  options.step_tokens = tokens;
  options.step_logit_rows = rows;
  return options;
}

// (id, tokens) of a plan.
std::vector<std::pair<uint64_t, int64_t>> Shares(const std::vector<PromptChunk>& plan) {
  std::vector<std::pair<uint64_t, int64_t>> shares;
  for (const PromptChunk& chunk : plan) shares.emplace_back(chunk.id, chunk.tokens);
  return shares;
}

std::pair<uint64_t, int64_t> Share(uint64_t id, int64_t tokens) { return {id, tokens}; }

// Ids in the order in which they end.
std::vector<uint64_t> RunToEnd(PromptScheduler& scheduler) {
  std::vector<uint64_t> ended;
  for (std::vector<PromptChunk> plan; !(plan = scheduler.PlanStep(Always)).empty();) {
    for (const PromptChunk& chunk : plan) {
      if (chunk.last) ended.push_back(chunk.id);
    }
  }
  return ended;
}

TEST(PromptSchedulerTest, OnePromptUsesTheWholeBudget) {
  PromptScheduler scheduler(Options(100));
  scheduler.Add(Entry(1, 250));
  EXPECT_EQ(scheduler.waiting(), 1);
  EXPECT_EQ(scheduler.queued_tokens(), 250);
  std::vector<PromptChunk> plan = scheduler.PlanStep(Always);
  ASSERT_THAT(Shares(plan), ElementsAre(Share(1, 100)));
  EXPECT_TRUE(plan[0].first);
  EXPECT_FALSE(plan[0].last);
  EXPECT_EQ(plan[0].logit_rows, 0);
  EXPECT_EQ(scheduler.waiting(), 0);
  EXPECT_EQ(scheduler.queued_tokens(), 150);
  EXPECT_THAT(Shares(scheduler.PlanStep(Always)), ElementsAre(Share(1, 100)));
  plan = scheduler.PlanStep(Always);
  ASSERT_THAT(Shares(plan), ElementsAre(Share(1, 50)));
  EXPECT_EQ(plan[0].begin, 200);
  EXPECT_TRUE(plan[0].last);
  EXPECT_EQ(plan[0].logit_rows, 1);
  EXPECT_TRUE(scheduler.empty());
  EXPECT_THAT(scheduler.PlanStep(Always), IsEmpty());
}

TEST(PromptSchedulerTest, ShortPromptsBehindALongOneShareHalfOfEachStep) {
  PromptScheduler scheduler(Options(100));
  scheduler.Add(Entry(1, 1000));
  scheduler.Add(Entry(2, 60));
  scheduler.Add(Entry(3, 20));
  // The shortest first; the head keeps half.
  EXPECT_THAT(Shares(scheduler.PlanStep(Always)), ElementsAre(Share(1, 50), Share(2, 30), Share(3, 20)));
  EXPECT_THAT(Shares(scheduler.PlanStep(Always)), ElementsAre(Share(1, 70), Share(2, 30)));
  EXPECT_THAT(Shares(scheduler.PlanStep(Always)), ElementsAre(Share(1, 100)));
}

TEST(PromptSchedulerTest, EqualPromptsRunOneAfterTheOther) {
  PromptScheduler scheduler(Options(100));
  scheduler.Add(Entry(1, 250));
  scheduler.Add(Entry(2, 250));
  EXPECT_THAT(Shares(scheduler.PlanStep(Always)), ElementsAre(Share(1, 100)));
  EXPECT_THAT(Shares(scheduler.PlanStep(Always)), ElementsAre(Share(1, 100)));
  EXPECT_THAT(Shares(scheduler.PlanStep(Always)), ElementsAre(Share(1, 50), Share(2, 50)));
}

TEST(PromptSchedulerTest, SmallPromptsFillOneStep) {
  PromptScheduler scheduler(Options(100));
  for (uint64_t id = 1; id <= 12; ++id) scheduler.Add(Entry(id, 10));
  const std::vector<PromptChunk> plan = scheduler.PlanStep(Always);
  EXPECT_EQ(plan.size(), 10u);
  EXPECT_TRUE(std::all_of(plan.begin(), plan.end(), [](const PromptChunk& chunk) { return chunk.last; }));
  EXPECT_EQ(scheduler.waiting(), 2);
}

TEST(PromptSchedulerTest, LargerPrioritiesRunFirstAndEqualOnesInOrderOfArrival) {
  PromptScheduler scheduler(Options(100));
  scheduler.Add(Entry(1, 100, 0, 0.0));
  scheduler.Add(Entry(2, 100, 0, 0.1));
  scheduler.Add(Entry(3, 100, 5, 0.2));
  scheduler.Add(Entry(4, 100, -5, 0.3));
  scheduler.Add(Entry(5, 100, 5, 0.4));
  EXPECT_THAT(RunToEnd(scheduler), ElementsAre(3, 5, 1, 2, 4));
}

TEST(PromptSchedulerTest, AShortPromptOfLowerPriorityDoesNotSlowDownTheHead) {
  PromptScheduler scheduler(Options(100));
  scheduler.Add(Entry(1, 1000, 5));
  scheduler.Add(Entry(2, 10, 0));
  scheduler.Add(Entry(3, 10, 5));
  EXPECT_THAT(Shares(scheduler.PlanStep(Always)), ElementsAre(Share(1, 90), Share(3, 10)));
  EXPECT_THAT(Shares(scheduler.PlanStep(Always)), ElementsAre(Share(1, 100)));
}

TEST(PromptSchedulerTest, WaitingMakesUpForPriority) {
  PromptScheduler scheduler(Options(100));
  scheduler.Add(Entry(1, 100, 0, 0));
  // A level is worth 10 seconds.
  scheduler.Add(Entry(2, 100, 1, 9.9));
  scheduler.Add(Entry(3, 100, 1, 10.1));
  EXPECT_THAT(RunToEnd(scheduler), ElementsAre(2, 1, 3));
}

// Whoever arrives with whatever priority: a prompt is done once the work that ranks before it is.
TEST(PromptSchedulerTest, AStreamOfUrgentPromptsStarvesNobody) {
  PromptScheduler scheduler(Options(100));
  scheduler.Add(Entry(1, 300, -100, 0));
  uint64_t next = 2;
  bool done = false;
  int steps = 0;
  for (; !done && steps < 10000; ++steps) {
    // One second a step, and more urgent work than a step can do.
    scheduler.Add(Entry(next++, 150, 100, steps));
    for (const PromptChunk& chunk : scheduler.PlanStep(Always)) done |= chunk.id == 1 && chunk.last;
  }
  EXPECT_TRUE(done);
  // 200 levels of 10 seconds: 2000 prompts of 150 tokens go first, at 100 tokens a step.
  EXPECT_LE(steps, 3100);
}

TEST(PromptSchedulerTest, LogitRowsAreBounded) {
  PromptScheduler scheduler(Options(100, 10));
  PromptEntry scored = Entry(1, 50);
  scored.first_logit_row = 20;
  scheduler.Add(scored);
  std::vector<PromptChunk> plan = scheduler.PlanStep(Always);
  ASSERT_THAT(Shares(plan), ElementsAre(Share(1, 30)));
  EXPECT_EQ(plan[0].logit_rows, 10);
  plan = scheduler.PlanStep(Always);
  ASSERT_THAT(Shares(plan), ElementsAre(Share(1, 10)));
  EXPECT_EQ(plan[0].logit_rows, 10);
}

TEST(PromptSchedulerTest, AScoredPromptLeavesRowsToShorterOnes) {
  PromptScheduler scheduler(Options(100, 10));
  PromptEntry scored = Entry(1, 500);
  scored.first_logit_row = 0;
  scheduler.Add(scored);
  for (uint64_t id = 2; id <= 7; ++id) scheduler.Add(Entry(id, 3));
  // Five rows of ten for the short ones.
  EXPECT_THAT(Shares(scheduler.PlanStep(Always)),
              ElementsAre(Share(1, 5), Share(2, 3), Share(3, 3), Share(4, 3), Share(5, 3), Share(6, 3), Share(7, 2)));
  EXPECT_THAT(Shares(scheduler.PlanStep(Always)), ElementsAre(Share(1, 9), Share(7, 1)));
}

TEST(PromptSchedulerTest, WhoIsRefusedMemoryIsNotOvertaken) {
  PromptScheduler scheduler(Options(100));
  scheduler.Add(Entry(1, 90));
  scheduler.Add(Entry(2, 400));
  scheduler.Add(Entry(3, 5));
  int64_t free = 100;
  const auto start = [&](uint64_t id) {
    const int64_t bytes = id == 2 ? 400 : id == 1 ? 90 : 5;
    if (bytes > free) return false;
    free -= bytes;
    return true;
  };
  // 3 is shorter than the head and fits; 2 does not fit.
  EXPECT_THAT(Shares(scheduler.PlanStep(start)), ElementsAre(Share(1, 90), Share(3, 5)));
  scheduler.Add(Entry(4, 5));
  EXPECT_THAT(scheduler.PlanStep(start), IsEmpty()) << "4 would fit, but 2 waits for memory";
  EXPECT_EQ(scheduler.waiting(), 2);
  free = 500;
  EXPECT_THAT(Shares(scheduler.PlanStep(start)), ElementsAre(Share(2, 95), Share(4, 5)));
}

TEST(PromptSchedulerTest, MemoryGoesInOrderAlsoToLaterUrgentPrompts) {
  PromptScheduler scheduler(Options(100));
  const auto refuse = [](uint64_t) { return false; };
  scheduler.Add(Entry(1, 300, 0, 0));
  EXPECT_THAT(scheduler.PlanStep(refuse), IsEmpty());
  scheduler.Add(Entry(2, 300, 10, 1));
  std::vector<uint64_t> asked;
  scheduler.PlanStep([&](uint64_t id) {
    asked.push_back(id);
    return asked.size() == 1;
  });
  EXPECT_THAT(asked, ElementsAre(2, 1));
}

TEST(PromptSchedulerTest, RemovedPromptsGetNothing) {
  PromptScheduler scheduler(Options(100));
  scheduler.Add(Entry(1, 300));
  scheduler.Add(Entry(2, 300));
  scheduler.Add(Entry(3, 300));
  scheduler.PlanStep(Always);
  scheduler.Remove(1);
  scheduler.Remove(3);
  scheduler.Remove(99);
  EXPECT_EQ(scheduler.waiting(), 1);
  EXPECT_EQ(scheduler.queued_tokens(), 300);
  EXPECT_THAT(RunToEnd(scheduler), ElementsAre(2));
  EXPECT_EQ(scheduler.queued_tokens(), 0);
  EXPECT_EQ(scheduler.waiting(), 0);
}

TEST(PromptSchedulerTest, RemovingTheRefusedOneLetsOthersStart) {
  PromptScheduler scheduler(Options(100));
  scheduler.Add(Entry(1, 300));
  scheduler.Add(Entry(2, 10));
  const auto only_second = [](uint64_t id) { return id == 2; };
  EXPECT_THAT(scheduler.PlanStep(only_second), IsEmpty());
  scheduler.Remove(1);
  EXPECT_THAT(Shares(scheduler.PlanStep(only_second)), ElementsAre(Share(2, 10)));
}

// Random loads: what must hold for every step of every load.
class PromptSchedulerPropertyTest : public ::testing::TestWithParam<int> {};

struct Tracked {
  PromptEntry entry;
  int64_t done = 0;
  bool started = false;
};

TEST_P(PromptSchedulerPropertyTest, EveryStepKeepsTheRules) {
  std::mt19937_64 random(GetParam());
  const auto uniform = [&](int64_t low, int64_t high) {
    return std::uniform_int_distribution<int64_t>(low, high)(random);
  };
  const PromptSchedulerOptions options = Options(uniform(1, 64), uniform(1, 16));
  PromptScheduler scheduler(options);
  const int64_t memory = uniform(200, 1000);
  int64_t used = 0;
  std::map<uint64_t, Tracked> prompts;
  uint64_t next = 1;
  double now = 0;

  for (int step = 0; step < 400 || !prompts.empty(); ++step) {
    if (step < 400) {
      for (int64_t arrivals = uniform(0, 2); arrivals > 0; --arrivals) {
        PromptEntry entry =
            Entry(next++, uniform(0, 4) == 0 ? uniform(1, 200) : uniform(1, 20), static_cast<int>(uniform(-2, 2)), now);
        entry.first_logit_row = uniform(0, entry.tokens - 1);
        scheduler.Add(entry);
        prompts[entry.id].entry = entry;
      }
      if (!prompts.empty() && uniform(0, 9) == 0) {
        const auto victim = std::next(prompts.begin(), uniform(0, static_cast<int64_t>(prompts.size()) - 1));
        if (victim->second.started) used -= victim->second.entry.tokens;
        scheduler.Remove(victim->first);
        prompts.erase(victim);
      }
    }
    now += 0.5;

    const std::vector<PromptChunk> plan = scheduler.PlanStep([&](uint64_t id) {
      Tracked& prompt = prompts.at(id);
      EXPECT_FALSE(prompt.started) << "asked twice";
      if (used + prompt.entry.tokens > memory) return false;
      used += prompt.entry.tokens;
      prompt.started = true;
      return true;
    });

    ASSERT_TRUE(!plan.empty() || used > 0 || prompts.empty()) << "stuck";
    ASSERT_TRUE(!plan.empty() || step < 400) << "what runs is computed to its end";
    int64_t tokens = 0;
    int64_t rows = 0;
    for (const PromptChunk& chunk : plan) {
      ASSERT_TRUE(prompts.count(chunk.id));
      Tracked& prompt = prompts.at(chunk.id);
      ASSERT_TRUE(prompt.started);
      ASSERT_EQ(chunk.begin, prompt.done) << "chunks follow each other";
      ASSERT_GE(chunk.tokens, 1);
      ASSERT_EQ(chunk.first, prompt.done == 0);
      prompt.done += chunk.tokens;
      ASSERT_LE(prompt.done, prompt.entry.tokens);
      ASSERT_EQ(chunk.last, prompt.done == prompt.entry.tokens);
      ASSERT_EQ(chunk.logit_rows,
                std::max<int64_t>(0, prompt.done - std::max(chunk.begin, prompt.entry.first_logit_row)));
      tokens += chunk.tokens;
      rows += chunk.logit_rows;
    }
    ASSERT_LE(tokens, options.step_tokens);
    ASSERT_LE(rows, options.step_logit_rows);

    // Work is not left lying: a step has room left only when nobody who runs could use it.
    if (tokens < options.step_tokens && rows < options.step_logit_rows) {
      for (const auto& [id, prompt] : prompts) {
        EXPECT_FALSE(prompt.started && prompt.done < prompt.entry.tokens) << "prompt " << id << " could have run";
      }
    }
    // The first in order of those that run gets at least half of the tokens, or all it needs, or half of the rows.
    const Tracked* head = nullptr;
    double head_rank = 0;
    for (const auto& [id, prompt] : prompts) {
      const bool ran = std::any_of(plan.begin(), plan.end(), [id = id](const PromptChunk& c) { return c.id == id; });
      if (!prompt.started || (prompt.done == prompt.entry.tokens && !ran)) continue;
      const double rank = prompt.entry.arrival_seconds - options.seconds_per_priority * prompt.entry.priority;
      if (head == nullptr || rank < head_rank) {
        head = &prompt;
        head_rank = rank;
      }
    }
    if (head != nullptr) {
      const auto chunk =
          std::find_if(plan.begin(), plan.end(), [&](const PromptChunk& c) { return c.id == head->entry.id; });
      ASSERT_NE(chunk, plan.end());
      EXPECT_TRUE(chunk->last || 2 * chunk->tokens >= options.step_tokens ||
                  2 * chunk->logit_rows >= options.step_logit_rows);
    }

    for (auto it = prompts.begin(); it != prompts.end();) {
      if (it->second.done < it->second.entry.tokens) {
        ++it;
        continue;
      }
      used -= it->second.entry.tokens;
      it = prompts.erase(it);
    }
    int64_t waiting = 0;
    int64_t left = 0;
    for (const auto& [id, prompt] : prompts) {
      waiting += prompt.started ? 0 : 1;
      left += prompt.entry.tokens - prompt.done;
    }
    ASSERT_EQ(scheduler.waiting(), waiting);
    ASSERT_EQ(scheduler.queued_tokens(), left);
  }
  EXPECT_TRUE(prompts.empty()) << "everything that was not removed has been computed";
  EXPECT_TRUE(scheduler.empty());
}

INSTANTIATE_TEST_SUITE_P(Seeds, PromptSchedulerPropertyTest, ::testing::Range(0, 40));

TEST(PromptSchedulerTest, GoesOnBehindWhatIsCachedAndPausesAtCuts) {
  PromptScheduler scheduler(Options(100));
  PromptEntry entry = Entry(1, 400);
  entry.expected_cached = 128;
  scheduler.Add(entry);
  scheduler.Add(Entry(2, 500));
  EXPECT_EQ(scheduler.queued_tokens(), 272 + 500);
  const auto start = [&](uint64_t id) {
    if (id == 1) scheduler.StartAt(1, 64, {128, 192, 384, 400});
    return true;
  };
  std::vector<PromptChunk> plan = scheduler.PlanStep(start);
  // The rest of the step is for those behind.
  ASSERT_THAT(Shares(plan), ElementsAre(Share(1, 64), Share(2, 36)));
  EXPECT_EQ(plan[0].begin, 64);
  EXPECT_TRUE(plan[0].first);
  EXPECT_EQ(scheduler.queued_tokens(), 272 + 464);
  plan = scheduler.PlanStep(start);
  ASSERT_THAT(Shares(plan), ElementsAre(Share(1, 64), Share(2, 36)));
  EXPECT_EQ(plan[0].begin, 128);
  EXPECT_FALSE(plan[0].first);
  EXPECT_THAT(Shares(scheduler.PlanStep(start)), ElementsAre(Share(1, 100)));
  EXPECT_THAT(Shares(scheduler.PlanStep(start)), ElementsAre(Share(1, 92), Share(2, 8)));
  plan = scheduler.PlanStep(start);
  ASSERT_THAT(Shares(plan), ElementsAre(Share(1, 16), Share(2, 84)));
  EXPECT_TRUE(plan[0].last);
  EXPECT_EQ(plan[0].logit_rows, 1);
}

TEST(PromptSchedulerTest, ACutEndsAShareOfAStepToo) {
  PromptScheduler scheduler(Options(100));
  scheduler.Add(Entry(1, 1000));
  scheduler.Add(Entry(2, 90));
  const auto start = [&](uint64_t id) {
    if (id == 2) scheduler.StartAt(2, 0, {20});
    return true;
  };
  EXPECT_THAT(Shares(scheduler.PlanStep(start)), ElementsAre(Share(1, 80), Share(2, 20)));
  EXPECT_THAT(Shares(scheduler.PlanStep(start)), ElementsAre(Share(1, 50), Share(2, 50)));
}

// A prompt that is mostly cached is a short one.
TEST(PromptSchedulerTest, ExpectedTokensCountWhileWaiting) {
  PromptScheduler scheduler(Options(100));
  scheduler.Add(Entry(1, 300));
  PromptEntry entry = Entry(2, 400);
  entry.expected_cached = 384;
  scheduler.Add(entry);
  const auto start = [&](uint64_t id) {
    if (id == 2) scheduler.StartAt(2, 384, {});
    return true;
  };
  EXPECT_THAT(Shares(scheduler.PlanStep(start)), ElementsAre(Share(1, 84), Share(2, 16)));
  scheduler.Remove(1);
  EXPECT_EQ(scheduler.queued_tokens(), 0);
}

}  // namespace
}  // namespace baton
