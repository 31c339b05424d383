#include "prefill/prompt_scheduler.h"

#include <algorithm>
#include <utility>

#include "common/base/status_macros.h"

namespace baton {

void PromptScheduler::Add(const PromptEntry& entry) {
  BATON_CHECK(entry.tokens >= 1 && entry.first_logit_row >= 0);
  BATON_CHECK(entry.expected_cached >= 0 && entry.expected_cached < entry.tokens);
  Prompt prompt;
  prompt.entry = entry;
  prompt.rank = entry.arrival_seconds - options_.seconds_per_priority * entry.priority;
  const auto place = std::upper_bound(prompts_.begin(), prompts_.end(), prompt.rank,
                                      [](double rank, const Prompt& other) { return rank < other.rank; });
  queued_tokens_ += prompt.left();
  prompts_.insert(place, std::move(prompt));
  ++waiting_;
}

void PromptScheduler::StartAt(uint64_t id, int64_t cached, std::vector<int64_t> cuts) {
  const auto found =
      std::find_if(prompts_.begin(), prompts_.end(), [id](const Prompt& prompt) { return prompt.entry.id == id; });
  BATON_CHECK(found != prompts_.end() && !found->started);
  BATON_CHECK(cached >= 0 && cached <= found->entry.first_logit_row);
  found->done = cached;
  found->cuts = std::move(cuts);
}

int64_t PromptScheduler::Prompt::LeftInStep() const {
  const auto cut = std::upper_bound(cuts.begin(), cuts.end(), done);
  const int64_t end = cut == cuts.end() ? entry.tokens : std::min(*cut, entry.tokens);
  return end - done - planned;
}

void PromptScheduler::Remove(uint64_t id) {
  const auto found =
      std::find_if(prompts_.begin(), prompts_.end(), [id](const Prompt& prompt) { return prompt.entry.id == id; });
  if (found == prompts_.end()) return;
  if (!found->started) --waiting_;
  queued_tokens_ -= found->left();
  if (refused_id_ == id) refused_id_ = 0;
  prompts_.erase(found);
}

bool PromptScheduler::CanRun(size_t index, Step* step, absl::FunctionRef<bool(uint64_t id)> start) {
  Prompt& prompt = prompts_[index];
  if (prompt.started) return true;
  if (index >= step->barrier) return false;
  if (!start(prompt.entry.id)) {
    step->barrier = index;
    refused_id_ = prompt.entry.id;
    return false;
  }
  if (refused_id_ == prompt.entry.id) refused_id_ = 0;
  queued_tokens_ -= prompt.left();
  prompt.started = true;
  queued_tokens_ += prompt.left();
  --waiting_;
  return true;
}

bool PromptScheduler::CouldUse(size_t index, const Step& step) const {
  const Prompt& prompt = prompts_[index];
  const bool next_needs_row = prompt.done + prompt.planned >= prompt.entry.first_logit_row;
  return step.tokens > 0 && prompt.LeftInStep() > 0 && (step.rows > 0 || !next_needs_row);
}

int64_t PromptScheduler::Give(size_t index, int64_t tokens, Step* step) {
  Prompt& prompt = prompts_[index];
  const int64_t at = prompt.done + prompt.planned;
  const int64_t without_rows = std::max<int64_t>(0, prompt.entry.first_logit_row - at);
  const int64_t given = std::min({tokens, prompt.LeftInStep(), step->tokens, without_rows + step->rows});
  const int64_t rows = std::max<int64_t>(0, given - without_rows);
  prompt.planned += given;
  prompt.planned_rows += rows;
  step->tokens -= given;
  step->rows -= rows;
  return given;
}

void PromptScheduler::ShareWithShorter(size_t head, Step* step, absl::FunctionRef<bool(uint64_t id)> start) {
  const int64_t head_left = prompts_[head].left();
  std::vector<size_t> shorter;
  for (size_t i = head + 1; i < prompts_.size(); ++i) {
    const Prompt& prompt = prompts_[i];
    if (prompt.left() < head_left && prompt.entry.priority >= prompts_[head].entry.priority) shorter.push_back(i);
  }
  std::stable_sort(shorter.begin(), shorter.end(),
                   [this](size_t a, size_t b) { return prompts_[a].left() < prompts_[b].left(); });
  int64_t share = options_.step_tokens / 2;
  // Rows are shared likewise, so that a long scored prompt cannot keep a short one from its last token.
  const int64_t rows_kept = options_.step_logit_rows - options_.step_logit_rows / 2;
  step->rows -= rows_kept;
  for (size_t index : shorter) {
    if (share == 0) break;
    if (CouldUse(index, *step) && CanRun(index, step, start)) share -= Give(index, share, step);
  }
  step->rows += rows_kept;
}

std::vector<PromptChunk> PromptScheduler::PlanStep(absl::FunctionRef<bool(uint64_t id)> start) {
  Step step{options_.step_tokens, options_.step_logit_rows, prompts_.size()};
  if (refused_id_ != 0) {
    // Memory goes in order, up to the one that waits for it, before any shorter prompt behind can take it.
    const uint64_t refused = refused_id_;
    for (size_t i = 0; CanRun(i, &step, start) && prompts_[i].entry.id != refused;) ++i;
  }

  size_t head = 0;
  while (head < prompts_.size() && !CanRun(head, &step, start)) ++head;
  if (head == prompts_.size()) return {};

  ShareWithShorter(head, &step, start);
  for (size_t i = head; i < prompts_.size() && step.tokens > 0; ++i) {
    if (CouldUse(i, step) && CanRun(i, &step, start)) Give(i, step.tokens, &step);
  }
  return TakePlan();
}

std::vector<PromptChunk> PromptScheduler::TakePlan() {
  std::vector<PromptChunk> plan;
  for (Prompt& prompt : prompts_) {
    if (prompt.planned == 0) continue;
    PromptChunk chunk;
    chunk.id = prompt.entry.id;
    chunk.begin = prompt.done;
    chunk.tokens = std::exchange(prompt.planned, 0);
    chunk.logit_rows = std::exchange(prompt.planned_rows, 0);
    chunk.first = !std::exchange(prompt.begun, true);
    prompt.done += chunk.tokens;
    chunk.last = prompt.done == prompt.entry.tokens;
    queued_tokens_ -= chunk.tokens;
    plan.push_back(chunk);
  }
  prompts_.erase(std::remove_if(prompts_.begin(), prompts_.end(),
                                [](const Prompt& prompt) { return prompt.done == prompt.entry.tokens; }),
                 prompts_.end());
  return plan;
}

}  // namespace baton
