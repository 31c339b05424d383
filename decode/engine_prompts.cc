// How the engine computes prompts beside its sequences: which, how much of them in a step, and what follows.
#include <algorithm>
#include <iterator>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "common/base/status_macros.h"
#include "common/rpc/first_token.h"
#include "common/rpc/local_prefill.h"
#include "decode/engine.h"

namespace baton {

void DecodeEngine::AddPrompt(std::shared_ptr<DecodeCall> call, Room room) {
  BATON_CHECK(options_.local_prefill_chunk > 0);
  const int64_t cached = room.state.position();
  LocalPrompt prompt{std::move(call), std::move(room), cached, /*in_step=*/0};
  BATON_CHECK(prompt.left() > 0);
  metrics_->local_prefills.Increment();
  metrics_->prompt_tokens_cached.Increment(static_cast<double>(cached));
  load_->AddCachedPrompt(cached);
  absl::MutexLock lock(&mutex_);
  prompt_arrivals_.push_back(std::move(prompt));
  ReportPromptTokens();
}

void DecodeEngine::AdmitPrompts() {
  if (prompt_arrivals_.empty()) return;
  std::move(prompt_arrivals_.begin(), prompt_arrivals_.end(), std::back_inserter(prompts_));
  prompt_arrivals_.clear();
  CountPromptTokens();
  std::stable_sort(prompts_.begin(), prompts_.end(),
                   [](const LocalPrompt& a, const LocalPrompt& b) { return a.priority() > b.priority(); });
}

void DecodeEngine::DropEndedPrompts() {
  if (prompts_.empty()) return;
  const auto first =
      std::remove_if(prompts_.begin(), prompts_.end(), [](const LocalPrompt& p) { return p.call->over(); });
  if (first == prompts_.end()) return;
  prompts_.erase(first, prompts_.end());
  metrics_->UpdateStateBytes();
  absl::MutexLock lock(&mutex_);
  CountPromptTokens();
}

void DecodeEngine::SelectPrompts() {
  prompt_batch_.clear();
  int64_t room = PromptTokensInStep(static_cast<int64_t>(batch_.size()), options_.local_prefill_chunk);
  for (LocalPrompt& prompt : prompts_) {
    if (room == 0 || prompt_batch_.size() == kMaxPromptsInStep) return;
    prompt.in_step = std::min(room, prompt.left());
    room -= prompt.in_step;
    prompt_batch_.push_back(&prompt);
  }
}

void DecodeEngine::ContinuePrompts(absl::Span<const float> logits) {
  if (prompt_batch_.empty()) return;
  const size_t vocab_size = static_cast<size_t>(model_->config().vocab_size);
  for (LocalPrompt* prompt : prompt_batch_) {
    const int64_t computed = std::exchange(prompt->in_step, 0);
    metrics_->prompt_tokens_computed.Increment(static_cast<double>(computed));
    load_->AddComputedPrompt(computed);
    if (prompt->left() > 0) continue;
    CompletePrompt(*prompt, logits.subspan(0, vocab_size));
    logits.remove_prefix(vocab_size);
  }
  prompts_.erase(
      std::remove_if(prompts_.begin(), prompts_.end(), [](const LocalPrompt& p) { return p.call == nullptr; }),
      prompts_.end());
  // Where first tokens ended everything there may be no next step to say so.
  ReportRunning();
  absl::MutexLock lock(&mutex_);
  CountPromptTokens();
}

void DecodeEngine::CompletePrompt(LocalPrompt& prompt, absl::Span<const float> logits) {
  const std::shared_ptr<DecodeCall> call = std::move(prompt.call);
  worker::v1::DecodeEvent event;
  worker::v1::FirstToken* const told = event.mutable_first_token();
  told->set_cached_tokens(static_cast<int32_t>(prompt.cached_tokens));
  const std::vector<FirstTokenRecord> first_tokens = SampleFirstTokens(call->request(), logits, sampler_, told);
  const int samples = call->request().samples();
  metrics_->generation_tokens.Increment(samples);
  load_->AddTokens(samples);
  call->PromptComputed(prompt.cached_tokens);
  call->events().Push(std::move(event));
  absl::StatusOr<std::vector<SampleStart>> starts =
      BeginSamples(*call, std::move(prompt.room), first_tokens, budget_, links_.sessions);
  metrics_->UpdateStateBytes();
  if (!starts.ok()) call->Finish(DecodeOutcome::kFailed, starts.status());
  if (!starts.ok() || starts->empty()) return;
  std::vector<std::unique_ptr<ActiveSequence>> sequences;
  {
    absl::MutexLock lock(&mutex_);
    sequences = MakeSequences(call, *std::move(starts), &next_id_);
  }
  for (auto& sequence : sequences) Join(std::move(sequence));
}

void DecodeEngine::CountPromptTokens() {
  prompt_tokens_left_ = 0;
  for (const LocalPrompt& prompt : prompts_) prompt_tokens_left_ += prompt.left();
  ReportPromptTokens();
}

void DecodeEngine::ReportPromptTokens() {
  int64_t tokens = 0;
  for (const LocalPrompt& prompt : prompt_arrivals_) tokens += prompt.left();
  load_->SetQueuedTokens(tokens + prompt_tokens_left_);
}

}  // namespace baton
