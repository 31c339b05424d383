#include "decode/turn.h"

#include <algorithm>
#include <vector>

#include "gtest/gtest.h"

namespace baton {
namespace {

// How often each of the sequences runs in `steps` steps of `batch` sequences.
std::vector<int> Simulate(const std::vector<int>& priorities, int steps, size_t batch) {
  struct Sequence {
    Turn turn;
    int runs = 0;
  };
  std::vector<Sequence> sequences;
  int64_t turns = 0;
  for (const int priority : priorities) {
    sequences.push_back({.turn = {.last_step = 0, .priority = priority, .number = turns++}});
  }
  std::vector<Sequence*> order;
  for (Sequence& sequence : sequences) order.push_back(&sequence);
  for (int step = 1; step <= steps; ++step) {
    std::sort(order.begin(), order.end(), [](auto* a, auto* b) { return GoesBefore(a->turn, b->turn); });
    for (size_t i = 0; i < batch; ++i) {
      order[i]->turn.last_step = step;
      order[i]->turn.number = turns++;
      ++order[i]->runs;
    }
  }
  std::vector<int> runs;
  for (const Sequence& sequence : sequences) runs.push_back(sequence.runs);
  return runs;
}

TEST(TurnTest, EqualOnesTakeTurns) {
  for (const int runs : Simulate({0, 0, 0, 0, 0}, 1000, 2)) EXPECT_EQ(runs, 400);
}

TEST(TurnTest, FirstComeFirstServed) { EXPECT_EQ(Simulate({0, 0, 0}, 1, 2), (std::vector<int>{1, 1, 0})); }

TEST(TurnTest, PriorityGoesFirstWithoutStarvingAnyone) {
  const std::vector<int> runs = Simulate({0, 100, 100, -100}, 10000, 2);
  EXPECT_GT(runs[1], 9500);
  EXPECT_GT(runs[2], 9500);
  EXPECT_GT(runs[0], 50);
  EXPECT_GT(runs[3], 25);
}

}  // namespace
}  // namespace baton
