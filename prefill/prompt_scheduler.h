// Which tokens of which prompts the next engine step computes. Pure logic: no clock, no model, no locks; the engine
// thread alone calls it. Tests: tests/prefill/prompt_scheduler_test.cc.
//
// Order. Every prompt has a rank, fixed when it arrives: its arrival time minus `seconds_per_priority` for each level
// of priority; smaller goes first. So larger priorities come first, equal ones are first come first served, and one
// level is worth that much waiting: nobody starves, because whatever arrives late enough ranks behind.
//
// A step. The head is the first prompt in order that can run. It may use the whole token budget but for what it yields
// to shorter prompts: up to half of the budget goes to prompts behind it that need fewer tokens than it does and are
// not of lower priority, those with the fewest left first. What is left over goes down the order, head first. So a
// short prompt behind a long one is done in a few steps, the head always has half of the budget or all it needs, and
// prompts of equal length run one after the other instead of slowing each other down.
//
// Memory. A prompt starts (its state is reserved) when it first gets tokens, so as many run at once as memory allows.
// Once one has been refused memory, nothing behind it starts before it does; what already runs goes on.
//
// Logit rows. A prompt whose logits are wanted (the last token; all tokens of a scored part) is cut such that a step
// makes at most `step_logit_rows` rows: with a vocabulary of 256 thousand each takes a megabyte.
//
// Cached beginnings. A prompt whose beginning is known already starts behind it (StartAt), and counts with what is
// left: as an estimate while it waits. Chunks end at the positions where the prefix cache wants to see the state
// (`cuts`).
//
//   PromptScheduler scheduler({.step_tokens = 512});
//   scheduler.Add({.id = 1, .tokens = 4000, .first_logit_row = 3999, .arrival_seconds = now});
//   for (const PromptChunk& chunk : scheduler.PlanStep(reserve_memory)) { ... compute chunk ... }
#pragma once

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"

namespace baton {

struct PromptSchedulerOptions {
  // Tokens in one step.
  int64_t step_tokens = 512;
  // Logit rows in one step.
  int64_t step_logit_rows = 64;
  // How long one level of priority is worth waiting.
  double seconds_per_priority = 10;
};

struct PromptEntry {
  uint64_t id = 0;
  int priority = 0;
  // Tokens to compute: at least 1.
  int64_t tokens = 0;
  // How many of them will probably be found cached: fewer than `tokens`.
  int64_t expected_cached = 0;
  // Logits are wanted of tokens [first_logit_row, tokens).
  int64_t first_logit_row = 0;
  double arrival_seconds = 0;
};

// Tokens [begin, begin + tokens) of one prompt.
struct PromptChunk {
  uint64_t id = 0;
  int64_t begin = 0;
  int64_t tokens = 0;
  // Rows of logits: those of the chunk's last tokens.
  int64_t logit_rows = 0;
  // The prompt's first and last chunk.
  bool first = false;
  bool last = false;
};

class PromptScheduler {
 public:
  explicit PromptScheduler(const PromptSchedulerOptions& options) : options_(options) {}

  // `entry.id` must be new.
  void Add(const PromptEntry& entry);
  // Forgets a prompt, wherever it is; no effect when it has been planned to its end.
  void Remove(uint64_t id);

  // The next step, in order of rank, one chunk for each prompt that takes part; empty when nothing can run. The chunks
  // count as computed from here on, and a prompt is forgotten with its last one.
  // `start`: reserves what the prompt needs; false when there is no room now (asked again in later steps).
  std::vector<PromptChunk> PlanStep(absl::FunctionRef<bool(uint64_t id)> start);
  // For `start` to call before it returns true: tokens [0, cached) need not be computed (cached <= first_logit_row),
  // and no chunk goes on beyond one of `cuts` (ascending positions).
  void StartAt(uint64_t id, int64_t cached, std::vector<int64_t> cuts);

  // Prompts that have not started.
  int64_t waiting() const { return waiting_; }
  // Tokens not yet planned, of all prompts.
  int64_t queued_tokens() const { return queued_tokens_; }
  bool empty() const { return prompts_.empty(); }

 private:
  struct Prompt {
    PromptEntry entry;
    double rank = 0;
    bool started = false;
    // Some of it was planned.
    bool begun = false;
    int64_t done = 0;
    std::vector<int64_t> cuts;
    // Of the step being planned.
    int64_t planned = 0;
    int64_t planned_rows = 0;

    int64_t left() const { return entry.tokens - (started ? done : entry.expected_cached) - planned; }
    // Tokens that the step may still take: to the next cut, or to the end.
    int64_t LeftInStep() const;
  };
  struct Step {
    int64_t tokens = 0;
    int64_t rows = 0;
    // Index of the first prompt that was refused memory: none behind it may start.
    size_t barrier = 0;
  };

  bool CanRun(size_t index, Step* step, absl::FunctionRef<bool(uint64_t id)> start);
  // Whether the step's budgets have anything for it: a prompt that would get nothing is not started.
  bool CouldUse(size_t index, const Step& step) const;
  // Gives prompt `index` up to `tokens` tokens, as the step's budgets allow.
  int64_t Give(size_t index, int64_t tokens, Step* step);
  void ShareWithShorter(size_t head, Step* step, absl::FunctionRef<bool(uint64_t id)> start);
  std::vector<PromptChunk> TakePlan();

  const PromptSchedulerOptions options_;
  // By rank, then arrival.
  std::vector<Prompt> prompts_;
  int64_t waiting_ = 0;
  int64_t queued_tokens_ = 0;
  // The prompt that was last refused memory: the first to be tried again. 0: none.
  uint64_t refused_id_ = 0;
};

}  // namespace baton
