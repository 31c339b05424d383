#include "gateway/choices.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace baton {

Choices::Choices(const GenerationPlan* plan) : plan_(plan) {
  choices_.resize(static_cast<size_t>(plan->choices()));
  for (Choice& choice : choices_) choice.relay = std::make_unique<TokenRelay>(plan);
}

absl::Status Choices::Find(int32_t sample, absl::Span<const int> which, int* choice) {
  if (sample < 0 || static_cast<size_t>(sample) >= which.size()) {
    return BrokenContract(absl::StrCat("sample ", sample, " of ", which.size()));
  }
  *choice = which[static_cast<size_t>(sample)];
  return absl::OkStatus();
}

absl::Status Choices::AddFirst(const worker::v1::FirstToken& first, absl::Span<const int> which,
                               std::vector<ChoiceEvent>* events) {
  if (static_cast<size_t>(first.further_size()) + 1 != which.size()) {
    return BrokenContract(
        absl::StrCat("first tokens of ", first.further_size() + 1, " samples where ", which.size(), " were asked for"));
  }
  for (size_t i = 0; i < which.size(); ++i) {
    const worker::v1::FirstToken& token = i == 0 ? first : first.further(static_cast<int>(i) - 1);
    Choice& choice = choices_[static_cast<size_t>(which[i])];
    TokenRelay& relay = *choice.relay;
    v1::Delta delta;
    BATON_RETURN_IF_ERROR(relay.AddFirst(token, &delta));
    PushDelta(which[i], 1, std::move(delta), events);
    // Where the state is to be kept, the decode worker has the last word.
    if (plan_->keep.has_value()) continue;
    if (token.has_done()) choice.ended_by_worker = true;
    if (!relay.end().has_value()) continue;
    if (token.has_done() || relay.end()->stop_string) Finish(which[i], *relay.end(), events);
    if (!token.has_done() && relay.end()->stop_string) choice.unwanted = true;
  }
  return absl::OkStatus();
}

absl::Status Choices::AddProgress(const worker::v1::Progress& progress, absl::Span<const int> which,
                                  std::vector<ChoiceEvent>* events) {
  if (progress.tokens().empty() && progress.done().empty() && progress.checkpoints().empty()) {
    return BrokenContract("an event without anything in it");
  }
  for (const worker::v1::TokenChunk& chunk : progress.tokens()) {
    int index;
    BATON_RETURN_IF_ERROR(Find(chunk.sample(), which, &index));
    Choice& choice = choices_[static_cast<size_t>(index)];
    TokenRelay& relay = *choice.relay;
    const int32_t before = relay.completion_tokens();
    // Else they were on their way when the stop string was found.
    if (!EndedWithStopString(choice)) {
      v1::Delta delta;
      BATON_RETURN_IF_ERROR(relay.AddChunk(chunk, &delta));
      PushDelta(index, relay.completion_tokens() - before, std::move(delta), events);
    }
    // The worker says itself when a sample is done, with its memory freed. Of a stop string only the gateway knows,
    // unless the state is to be kept; then a worker that goes on could not look for it, and keeps something else.
    if (choice.finished || !EndedWithStopString(choice)) continue;
    const bool goes_on = relay.completion_tokens() - before < chunk.ids_size();
    if (plan_->keep.has_value() && !goes_on) continue;
    Finish(index, *relay.end(), events);
    choice.unwanted = true;
  }
  for (const worker::v1::SampleDone& done : progress.done()) {
    int index;
    BATON_RETURN_IF_ERROR(Find(done.sample(), which, &index));
    Choice& choice = choices_[static_cast<size_t>(index)];
    TokenRelay& relay = *choice.relay;
    choice.ended_by_worker = true;
    if (choice.finished && EndedWithStopString(choice)) continue;
    if (choice.finished) return BrokenContract("a sample that ended twice");
    if (done.has_kept_until_ms()) kept_until_ms_ = done.kept_until_ms();
    if (done.reason() == worker::v1::CUT_OFF) {
      if (!cut_off_.has_value()) return BrokenContract("a sample that was cut off without being asked for");
      FinishNow(index, *cut_off_, events);
      continue;
    }
    v1::Delta delta;
    BATON_RETURN_IF_ERROR(relay.AddDone(done.reason(), &delta));
    PushDelta(index, 0, std::move(delta), events);
    Finish(index, *relay.end(), events);
  }
  return absl::OkStatus();
}

void Choices::FinishEnded(absl::Span<const int> which, std::vector<ChoiceEvent>* events) {
  for (const int index : which) {
    const Choice& choice = Get(index);
    if (!choice.finished && choice.relay->end().has_value()) Finish(index, *choice.relay->end(), events);
  }
}

std::vector<int32_t> Choices::TakeUnwanted(absl::Span<const int> which) {
  std::vector<int32_t> samples;
  for (size_t i = 0; i < which.size(); ++i) {
    bool& unwanted = choices_[static_cast<size_t>(which[i])].unwanted;
    if (unwanted) samples.push_back(static_cast<int32_t>(i));
    unwanted = false;
  }
  return samples;
}

void Choices::EndRest(v1::FinishReason reason, std::vector<ChoiceEvent>* events) {
  for (int i = 0; i < plan_->choices(); ++i) {
    if (!Get(i).finished) FinishNow(i, reason, events);
  }
}

void Choices::FinishNow(int index, v1::FinishReason reason, std::vector<ChoiceEvent>* events) {
  TokenRelay& relay = *choices_[static_cast<size_t>(index)].relay;
  if (relay.end().has_value()) return Finish(index, *relay.end(), events);
  v1::Delta delta;
  delta.set_text(relay.Flush());
  PushDelta(index, 0, std::move(delta), events);
  TokenRelay::End end;
  end.reason = reason;
  Finish(index, std::move(end), events);
}

void Choices::PushDelta(int index, int32_t tokens, v1::Delta delta, std::vector<ChoiceEvent>* events) const {
  if (delta.text().empty() && delta.token_ids().empty() && delta.logprobs().empty()) return;
  ChoiceEvent event;
  event.choice = index;
  event.tokens = tokens;
  delta.set_choice(index);
  *event.event.mutable_delta() = std::move(delta);
  events->push_back(std::move(event));
}

void Choices::Finish(int index, TokenRelay::End end, std::vector<ChoiceEvent>* events) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  choice.finished = true;
  choice.end = std::move(end);
  ++finished_;
  if (!plan_->wants_choices) return;
  ChoiceEvent event;
  event.choice = index;
  // How much of the prompt was cached is not known yet: `finished` says it.
  *event.event.mutable_choice_finished() = Summary(index, /*cached_tokens=*/0);
  events->push_back(std::move(event));
}

bool Choices::all_ended(absl::Span<const int> which) const {
  return std::all_of(which.begin(), which.end(), [this](int choice) { return ended(choice); });
}

bool Choices::ended_by_worker(absl::Span<const int> which) const {
  return std::all_of(which.begin(), which.end(), [this](int choice) { return Get(choice).ended_by_worker; });
}

bool Choices::all_ended() const {
  return std::all_of(choices_.begin(), choices_.end(),
                     [](const Choice& choice) { return choice.finished || choice.relay->end().has_value(); });
}

int32_t Choices::kept_tokens() const {
  const v1::StopMatch& match = choices_.front().end.match;
  const bool with_stop_token = match.has_eos_token_id() || match.has_stop_token_id();
  return completion_tokens(0) - (with_stop_token ? 1 : 0);
}

int32_t Choices::completion_tokens() const {
  int32_t tokens = 0;
  for (const Choice& choice : choices_) tokens += choice.relay->completion_tokens();
  return tokens;
}

int32_t Choices::completion_tokens(int choice) const {
  return choices_[static_cast<size_t>(choice)].relay->completion_tokens();
}

v1::ChoiceFinished Choices::Summary(int index, int32_t cached_tokens) const {
  const Choice& choice = choices_[static_cast<size_t>(index)];
  v1::ChoiceFinished summary;
  summary.set_choice(index);
  summary.set_seed(plan_->seed(index));
  summary.set_reason(choice.end.reason);
  if (choice.end.match.kind_case() != v1::StopMatch::KIND_NOT_SET) *summary.mutable_match() = choice.end.match;
  const int32_t prompt_tokens = static_cast<int32_t>(plan_->prompt.size());
  summary.mutable_usage()->set_prompt_tokens(prompt_tokens);
  summary.mutable_usage()->set_completion_tokens(choice.relay->completion_tokens());
  summary.mutable_usage()->set_total_tokens(prompt_tokens + choice.relay->completion_tokens());
  summary.mutable_usage()->set_cached_prompt_tokens(cached_tokens);
  summary.set_cumulative_logprob(choice.relay->cumulative_logprob());
  return summary;
}

v1::FinishReason Choices::OverallReason() const {
  v1::FinishReason overall = v1::FINISH_REASON_CANCELLED;
  for (const Choice& choice : choices_) {
    if (choice.end.reason == v1::FINISH_REASON_TIME_LIMIT) return choice.end.reason;
    if (overall == v1::FINISH_REASON_CANCELLED || choice.end.reason == v1::FINISH_REASON_STOP) {
      overall = choice.end.reason;
    }
  }
  return overall;
}

}  // namespace baton
