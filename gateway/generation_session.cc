#include "gateway/generation_session.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/rpc/status_mapping.h"
#include "gateway/session_handle.h"

namespace baton {
GenerationSession::GenerationSession(const SessionEnvironment& environment, RequestRecord record,
                                     std::chrono::system_clock::time_point deadline)
    : environment_(environment),
      deadline_(deadline),
      record_(std::move(record)),
      preparing_(record_.span.Child("prepare")) {}

void GenerationSession::Open(std::unique_ptr<GenerationSink> sink) {
  std::lock_guard<std::mutex> lock(mutex_);
  sink_ = std::move(sink);
}

void GenerationSession::Start(absl::StatusOr<GenerationPlan> plan) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (ended_) return;  // Cancelled meanwhile.
  preparing_.End();
  if (!plan.ok()) return Fail(plan.status());
  plan_ = *std::move(plan);
  choices_ = std::make_unique<Choices>(&plan_);
  prompt_scores_ = std::make_unique<PromptScoreRelay>(&plan_);
  record_.prompt_tokens = static_cast<int64_t>(plan_.prompt.size());
  record_.choices = plan_.choices();
  branches_.push_back(std::make_unique<Branch>());
  FirstBranch().choices.resize(static_cast<size_t>(plan_.choices()));
  std::iota(FirstBranch().choices.begin(), FirstBranch().choices.end(), 0);
  FirstBranch().waiting = record_.span.Child("queue");
  const std::weak_ptr<GenerationSession> weak = weak_from_this();
  ticket_ =
      std::make_shared<AdmissionTicket>(AdmissionRequest{DemandOf(plan_), plan_.priority, record_.identity, deadline_},
                                        plan_.model->metrics, [weak](absl::StatusOr<Route> route) {
                                          const std::shared_ptr<GenerationSession> session = weak.lock();
                                          if (session == nullptr) return;
                                          std::lock_guard<std::mutex> session_lock(session->mutex_);
                                          if (session->ended_) return;
                                          session->OnRoute(session->FirstBranch(), std::move(route));
                                        });
  absl::StatusOr<absl::optional<Route>> route = environment_.queue->Enter(ticket_);
  if (!route.ok()) return Fail(route.status());

  v1::GenerateEvent event;
  v1::Started* const started = event.mutable_started();
  started->set_request_id(plan_.request_id);
  started->set_model(plan_.model->name);
  started->set_seed(plan_.sampling.seed());
  started->set_prompt_tokens(static_cast<int32_t>(plan_.prompt.size()));
  for (int i = 0; plan_.wants_choices && i < plan_.choices(); ++i) started->add_seeds(plan_.seed(i));
  if (!Push(std::move(event))) return;
  if (plan_.time_limit_seconds.has_value()) {
    const std::chrono::duration<double> limit(*plan_.time_limit_seconds);
    // Beyond a year it is no limit.
    if (limit < std::chrono::hours(24 * 365)) {
      SetTimeLimit(record_.accepted + std::chrono::duration_cast<Clock::duration>(limit),
                   &GenerationSession::OnTimeLimit);
    }
  }
  if (route->has_value()) OnRoute(FirstBranch(), std::move(**route));
}

void GenerationSession::SetTimeLimit(Clock::time_point when, void (GenerationSession::*step)()) {
  const std::weak_ptr<GenerationSession> weak = weak_from_this();
  time_limit_ = environment_.timers->At(when, [weak, step] {
    const std::shared_ptr<GenerationSession> session = weak.lock();
    if (session == nullptr) return;
    std::lock_guard<std::mutex> session_lock(session->mutex_);
    if (!session->ended_) (session.get()->*step)();
  });
}

void GenerationSession::OnTimeLimit() {
  if (!CutOffToKeep()) return CompleteWithTimeLimit();
  time_is_up_ = true;
  SetTimeLimit(Clock::now() + environment_.keep_patience, &GenerationSession::CompleteWithTimeLimit);
}

void GenerationSession::Cancel() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!ended_) Fail(CancelledStatus());
}

void GenerationSession::Abort(const absl::Status& status) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!ended_) Fail(status);
}

absl::Status GenerationSession::CancelledStatus() const {
  if (std::chrono::system_clock::now() >= deadline_) {
    return absl::DeadlineExceededError("the deadline of the call passed before generation was complete");
  }
  return absl::CancelledError("the caller went away");
}

void GenerationSession::OnRoute(Branch& branch, absl::StatusOr<Route> route) {
  if (!route.ok()) return FailAfter(branch, route.status());
  if (!routed_before_) {
    routed_before_ = true;
    record_.queue_seconds = record_.Elapsed();
    plan_.model->metrics->queue_seconds.Observe(record_.queue_seconds);
    plan_.model->metrics->admitted_prompt_tokens.Increment(static_cast<double>(plan_.prompt.size()));
    if (environment_.hedge.after.has_value()) environment_.hedge_budget->Earn();
  }
  branch.waiting.End();
  BeginAttempt(branch, *std::move(route));
}

bool GenerationSession::Relay(std::vector<ChoiceEvent> events) {
  record_.output_tokens = choices_->completion_tokens();
  last_token_.resize(static_cast<size_t>(plan_.choices()));
  for (ChoiceEvent& event : events) {
    if (!Push(std::move(event.event))) return false;
    if (event.tokens == 0) continue;
    const Clock::time_point now = Clock::now();
    plan_.model->metrics->streamed_tokens.Increment(event.tokens);
    absl::optional<Clock::time_point>& last = last_token_[static_cast<size_t>(event.choice)];
    if (last.has_value()) {
      const double seconds = SecondsBetween(*last, now) / event.tokens;
      for (int32_t i = 0; i < event.tokens; ++i) plan_.model->metrics->inter_token.Observe(seconds);
    }
    last = now;
  }
  return true;
}

bool GenerationSession::Push(v1::GenerateEvent event) {
  if (sink_->Push(std::move(event))) return true;
  if (sink_->gone()) {
    Fail(CancelledStatus());
    return false;
  }
  Fail(WithReason(absl::ResourceExhaustedError("the client reads its stream too slowly; read faster, or ask for less "
                                               "(logprobs, prompt_logprobs)"),
                  "SLOW_READER"));
  return false;
}

void GenerationSession::Complete() {
  // How much of the conversation was cached comes with the prefill worker's Done, which may be behind the last token.
  const Branch& first = FirstBranch();
  const bool done_is_due = !first.resumed && first.attempt.prefill != nullptr && !first.attempt.prefill_done;
  if (plan_.session.has_value() && choices_->all_ended() && done_is_due) return;
  CompleteWith(v1::FINISH_REASON_CANCELLED);
}

void GenerationSession::CompleteWith(v1::FinishReason reason) {
  std::vector<ChoiceEvent> events;
  choices_->EndRest(reason, &events);
  if (!Relay(std::move(events))) return;
  v1::GenerateEvent event;
  v1::Finished* const finished = event.mutable_finished();
  v1::ChoiceFinished first = choices_->Summary(0, cached_tokens_);
  finished->set_reason(first.reason());
  if (first.has_match()) finished->mutable_match()->Swap(first.mutable_match());
  finished->mutable_usage()->Swap(first.mutable_usage());
  finished->mutable_usage()->set_completion_tokens(choices_->completion_tokens());
  finished->mutable_usage()->set_total_tokens(finished->usage().prompt_tokens() + choices_->completion_tokens());
  for (int i = 0; plan_.wants_choices && i < plan_.choices(); ++i) {
    *finished->add_choices() = choices_->Summary(i, cached_tokens_);
  }
  if (choices_->kept_until_ms().has_value()) {
    const double left = static_cast<double>(*choices_->kept_until_ms() - absl::ToUnixMillis(absl::Now())) / 1000;
    finished->mutable_session()->set_handle(
        MakeSessionHandle(FirstBranch().attempt.reservation.boot_id(), plan_.keep->id()));
    finished->mutable_session()->set_expires_in_seconds(std::max(0.0, left));
    finished->mutable_session()->set_output_tokens(choices_->kept_tokens());
  }
  finished->mutable_timing()->set_queue_seconds(record_.queue_seconds);
  finished->mutable_timing()->set_time_to_first_token_seconds(std::max(0.0, record_.time_to_first_token));
  finished->mutable_timing()->set_total_seconds(record_.Elapsed());
  if (!Push(std::move(event))) return;
  // Workers that have done their part end their calls themselves, and count them as done.
  for (const std::unique_ptr<Branch>& branch : branches_) {
    Attempt& attempt = branch->attempt;
    const bool decode_done = attempt.handed_off && choices_->ended_by_worker(branch->choices);
    if (decode_done) attempt.decode.reset();
    if (decode_done || attempt.prefill_done) attempt.prefill.reset();
  }
  const v1::FinishReason overall = choices_->OverallReason();
  const Outcome outcome = overall == v1::FINISH_REASON_STOP     ? Outcome::kStop
                          : overall == v1::FINISH_REASON_LENGTH ? Outcome::kLength
                                                                : Outcome::kTimeLimit;
  End(outcome, absl::OkStatus());
}

void GenerationSession::End(Outcome outcome, const absl::Status& status) {
  ended_ = true;
  if (hedge_ != nullptr) CountHedge("cancelled");
  for (const std::unique_ptr<Branch>& branch : branches_) DropAttempt(*branch);
  if (time_limit_.has_value()) environment_.timers->Cancel(*time_limit_);
  if (ticket_ != nullptr) environment_.queue->Leave(ticket_);
  record_.cached_tokens = cached_tokens_;
  // Before the client hears of it: what it asks next finds this request gone from its limits.
  record_.Finish(outcome, status);
  sink_->Finish(status);
  if (choices_ != nullptr) {
    plan_.model->metrics->prompt_tokens.Observe(static_cast<double>(plan_.prompt.size()));
    for (int i = 0; i < plan_.choices(); ++i) {
      plan_.model->metrics->output_tokens.Observe(static_cast<double>(choices_->completion_tokens(i)));
    }
  }
}

}  // namespace baton
