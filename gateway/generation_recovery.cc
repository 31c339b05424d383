// Losing workers: whose fault it was, whether to try again, and how a request goes on from what its client has.
#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/rpc/status_mapping.h"
#include "gateway/generation_session.h"

namespace baton {
namespace {

const char* ReasonName(const WorkerFailure& failure) {
  if (failure.kind == FailureKind::kFull) return "full";
  const std::string reason = ErrorReason(failure.status);
  if (reason == "STALLED") return "stalled";
  return reason == "DRAINING" ? "draining" : "lost";
}

}  // namespace

absl::optional<Continuation> GenerationSession::ContinuationOf(const Branch& branch) const {
  if (!branch.resumed) return absl::nullopt;
  Continuation continuation;
  continuation.choice = branch.choices.front();
  continuation.generated = choices_->tokens(continuation.choice);
  continuation.state = branch.state;
  return continuation;
}

void GenerationSession::OnFailure(Branch& branch, Stage stage, const grpc::Status& grpc_status) {
  const std::string& endpoint =
      stage == Stage::kPrefill ? branch.attempt.prefill_endpoint : branch.attempt.decode_endpoint;
  const WorkerFailure failure = ClassifyFailure(stage, endpoint, grpc_status);
  TraceFailure(branch, stage, failure);
  // What there is has been sent; only the state is lost.
  if (time_is_up_) return CompleteWithTimeLimit();
  Placement& blamed = failure.blamed == Stage::kPrefill ? branch.attempt.route.prefill : branch.attempt.route.decode;
  if (hedge_ != nullptr) {
    if (failure.kind == FailureKind::kFull) blamed.ReportRefused();
    if (failure.kind == FailureKind::kRetriable) Blame(branch, failure);
    return LeaveRace(branch, /*counts=*/failure.kind != FailureKind::kFull);
  }
  if (failure.kind == FailureKind::kFinal) return FailAfter(branch, failure.status);
  if (failure.kind == FailureKind::kFull && !choices_->has_first()) {
    blamed.ReportRefused();
    DropAttempt(branch);
    branch.waiting = record_.span.Child("queue");
    environment_.queue->Requeue(ticket_);
    return;
  }
  if (branch.attempt.local()) branch.wants_prefill_worker = true;
  if (!branch.failing_since.has_value()) branch.failing_since = Clock::now();
  ++branch.tries;
  if (failure.kind == FailureKind::kFull) {
    blamed.ReportRefused();
  } else {
    Blame(branch, failure);
  }
  // A stream that has begun does not count refusals: there will be room, or news of who is there. Time is bounded.
  const bool refused = failure.kind == FailureKind::kFull || ErrorReason(failure.status) == "DRAINING";
  const bool patient = refused && choices_->has_first();
  if (!patient) {
    ++branch.failures;
    ++failures_;
  }
  // More is lost with a stream that has begun.
  const int most = choices_->has_first() ? 2 * environment_.max_attempts : environment_.max_attempts;
  const bool too_often = branch.failures >= most || failures_ > environment_.max_failures;
  const bool too_long = Clock::now() - *branch.failing_since > environment_.resume_timeout;
  if (too_often || (patient && too_long)) return FailAfter(branch, failure.status);
  if (!choices_->has_first()) plan_.model->metrics->CountRetry(failure.blamed);
  Resume(branch, ReasonName(failure));
}

void GenerationSession::TraceFailure(const Branch& branch, Stage stage, const WorkerFailure& failure) {
  const Attempt& attempt = branch.attempt;
  if (!attempt.span) return;
  attempt.span.Set("baton.stage", attempt.Phase());
  attempt.span.Set("error.type", ReasonName(failure));
  attempt.span.Fail(failure.status.message());
  // Of a worker that hangs; others have said so themselves.
  (stage == Stage::kPrefill ? attempt.prefill_span : attempt.decode_span).Fail(failure.status.message());
}

void GenerationSession::Blame(Branch& branch, const WorkerFailure& failure) {
  const std::string reason = ErrorReason(failure.status);
  // It has not failed, and may well do the rest.
  if (reason == "LOCAL_PREFILL_REFUSED") return;
  const bool draining = reason == "DRAINING";
  const auto blame = [&](Stage stage, const std::string& endpoint) {
    if (endpoint.empty()) return;
    branch.avoid.insert(endpoint);
    // One that leaves in good order has not failed; its load report says the rest.
    if (!draining && environment_.router->Failed(stage, endpoint)) plan_.model->metrics->CountPause(stage);
  };
  const bool prefill = failure.blamed == Stage::kPrefill;
  blame(failure.blamed, prefill ? branch.attempt.prefill_endpoint : branch.attempt.decode_endpoint);
  // A handoff has two ends, and each says that it was the other: neither is as bad as one that failed by itself.
  if (reason == "HANDOFF_FAILED") {
    blame(prefill ? Stage::kDecode : Stage::kPrefill,
          prefill ? branch.attempt.decode_endpoint : branch.attempt.prefill_endpoint);
  } else {
    branch.avoid.insert(prefill ? branch.attempt.prefill_endpoint : branch.attempt.decode_endpoint);
  }
}

void GenerationSession::FailAfter(const Branch& branch, const absl::Status& status) {
  if (choices_ == nullptr || !choices_->has_first()) return Fail(status);
  // The client has read some of it: only the whole request can be sent again.
  const bool refused = absl::IsInvalidArgument(status) || absl::IsResourceExhausted(status);
  absl::Status told(refused ? absl::StatusCode::kUnavailable : status.code(),
                    absl::StrCat(status.message(), " (after ", choices_->completion_tokens(), " tokens and ",
                                 branch.failures, " failed attempts; send the request again)"));
  status.ForEachPayload(
      [&](absl::string_view type_url, const absl::Cord& payload) { told.SetPayload(type_url, payload); });
  Fail(told);
}

absl::optional<StateElsewhere> GenerationSession::StateOf(const Attempt& attempt, int32_t sample, int choice) const {
  const auto tokens = static_cast<int64_t>(plan_.prompt.size() + choices_->tokens(choice).size());
  StateElsewhere state;
  const auto left = attempt.left.find(sample);
  if (left != attempt.left.end()) {
    *state.source.mutable_key() = left->second;
    state.source.set_endpoint(attempt.reservation.endpoint());
    state.tokens = tokens - 1;
    return state;
  }
  const auto checkpoint = attempt.checkpoints.find(sample);
  if (checkpoint == attempt.checkpoints.end()) return absl::nullopt;
  const Standby& standby = attempt.route.standbys[static_cast<size_t>(checkpoint->second.standby())];
  state.tokens = checkpoint->second.position();
  const bool usable = state.tokens > 0 && state.tokens < tokens;
  if (!usable || !environment_.router->Serves(Stage::kDecode, standby.connection->endpoint)) return absl::nullopt;
  *state.source.mutable_key() = checkpoint->second.key();
  state.source.set_endpoint(standby.endpoint);
  state.standby = standby.connection;
  return state;
}

void GenerationSession::Resume(Branch& branch, const char* reason) {
  const char* const phase = branch.attempt.Phase();
  std::map<int32_t, StateElsewhere> states;
  if (choices_->has_first()) {
    for (size_t sample = 0; sample < branch.choices.size(); ++sample) {
      const auto number = static_cast<int32_t>(sample);
      const absl::optional<StateElsewhere> state = StateOf(branch.attempt, number, branch.choices[sample]);
      if (state.has_value()) states[number] = *state;
    }
  }
  DropAttempt(branch);
  branch.state.reset();
  std::vector<Branch*> going_on = {&branch};
  if (choices_->has_first()) {
    // All their tokens are there; only their worker's word for it is not.
    std::vector<ChoiceEvent> ends;
    choices_->FinishEnded(branch.choices, &ends);
    if (!Relay(std::move(ends))) return;
    if (choices_->complete()) return Complete();
    // What has ended here needs no worker to hear of it any more.
    choices_->TakeUnwanted(branch.choices);
    going_on.clear();
    const std::vector<int> choices = branch.choices;
    for (size_t sample = 0; sample < choices.size(); ++sample) {
      if (choices_->ended(choices[sample])) continue;
      Branch* next = &branch;
      if (!going_on.empty()) {
        branches_.push_back(std::make_unique<Branch>());
        next = branches_.back().get();
        next->tries = branch.tries;
        next->failures = branch.failures;
        next->failing_since = branch.failing_since;
        next->avoid = branch.avoid;
      }
      next->choices = {choices[sample]};
      next->resumed = true;
      const auto state = states.find(static_cast<int32_t>(sample));
      if (state != states.end()) next->state = state->second;
      going_on.push_back(next);
      ++record_.resumes;
      plan_.model->metrics->CountResume(phase, reason);
    }
  }
  for (Branch* next : going_on) {
    next->waiting = record_.span.Child("find workers");
    // The state does not wait for long.
    if (next->state.has_value()) {
      FindRoute(*next);
    } else {
      // A moment for the news of a dead worker to arrive by the registry as well.
      const int doublings = std::clamp(next->tries - 1, 0, 5);
      next->retry =
          InAttemptAt(Clock::now() + environment_.retry_pause * (1 << doublings), *next, &GenerationSession::FindRoute);
    }
    if (ended_) return;
  }
}

void GenerationSession::FindRoute(Branch& branch) {
  const absl::optional<Continuation> continuation = ContinuationOf(branch);
  const std::weak_ptr<GenerationSession> weak = weak_from_this();
  Demand demand = DemandOf(plan_, continuation.has_value() ? &*continuation : nullptr);
  if (branch.wants_prefill_worker) demand.may_be_local = false;
  branch.ticket = std::make_shared<AdmissionTicket>(
      AdmissionRequest{std::move(demand), plan_.priority, record_.identity, deadline_}, plan_.model->metrics,
      [weak, at = &branch, number = branch.number](absl::StatusOr<Route> route) {
        const std::shared_ptr<GenerationSession> session = weak.lock();
        if (session == nullptr) return;
        session->InAttempt(at, number, [&] { session->OnRoute(*at, std::move(route)); });
      });
  absl::StatusOr<absl::optional<Route>> route =
      environment_.queue->Resume(branch.ticket, branch.avoid, *branch.failing_since + environment_.resume_timeout);
  if (!route.ok()) return OnRoute(branch, route.status());
  if (route->has_value()) OnRoute(branch, std::move(**route));
}

void GenerationSession::DropAttempt(Branch& branch) {
  branch.number = ++attempt_numbers_;
  if (branch.attempt.decode != nullptr) branch.attempt.decode->Cancel();
  if (branch.attempt.prefill != nullptr) branch.attempt.prefill->Cancel();
  for (const Span* const span : {&branch.attempt.decode_span, &branch.attempt.prefill_span, &branch.attempt.span}) {
    span->End();
  }
  branch.attempt = Attempt();
  if (branch.ticket != nullptr) environment_.queue->Leave(branch.ticket);
  branch.ticket.reset();
  for (absl::optional<Timers::Id>* timer : {&branch.retry, &branch.watchdog, &branch.hedge_timer}) StopTimer(timer);
}

void GenerationSession::Watch(Branch& branch, Clock::time_point when) {
  branch.watchdog = InAttemptAt(when, branch, &GenerationSession::OnWatch);
}

Timers::Id GenerationSession::InAttemptAt(Clock::time_point when, Branch& branch,
                                          void (GenerationSession::*step)(Branch&)) {
  const std::weak_ptr<GenerationSession> weak = weak_from_this();
  return environment_.timers->At(when, [weak, step, at = &branch, number = branch.number] {
    const std::shared_ptr<GenerationSession> session = weak.lock();
    if (session == nullptr) return;
    session->InAttempt(at, number, [&] { (session.get()->*step)(*at); });
  });
}

void GenerationSession::StopTimer(absl::optional<Timers::Id>* timer) {
  if (timer->has_value()) environment_.timers->Cancel(**timer);
  timer->reset();
}

void GenerationSession::OnWatch(Branch& branch) {
  branch.watchdog.reset();
  if (branch.attempt.decode == nullptr && branch.attempt.prefill == nullptr) return;
  const StallRule rule{environment_.stall_timeout, Clock::now()};
  if (const absl::optional<Stage> stage = StalledStage(branch, rule)) {
    if (choices_->all_ended(branch.choices)) {
      // It has said all but goodbye.
      DropAttempt(branch);
      return EndBranch(branch);
    }
    return OnFailure(branch, *stage, ToGrpcStatus(rule.Error(branch.attempt.last_event)));
  }
  Watch(branch, rule.Next(branch.attempt.last_event));
}

absl::optional<Stage> GenerationSession::StalledStage(const Branch& branch, const StallRule& rule) const {
  const Attempt& attempt = branch.attempt;
  if (!rule.Quiet(attempt.last_event)) return absl::nullopt;
  const bool needs_decode = !attempt.decode_endpoint.empty();
  // Reserving takes no time.
  if (needs_decode && !attempt.reserved) return Stage::kDecode;
  const auto silent = [&](Stage stage, const std::string& endpoint) {
    return rule.Silent(environment_.router->Pulse(stage, endpoint));
  };
  const auto stuck = [&](Stage stage, const std::string& endpoint) {
    return rule.Stuck(environment_.router->Pulse(stage, endpoint), attempt.last_event);
  };
  if (!attempt.handed_off && attempt.prefill != nullptr && silent(Stage::kPrefill, attempt.prefill_endpoint)) {
    return Stage::kPrefill;
  }
  if (needs_decode && attempt.decode != nullptr && silent(Stage::kDecode, attempt.decode_endpoint))
    return Stage::kDecode;
  if (!attempt.has_first && !attempt.local() && stuck(Stage::kPrefill, attempt.prefill_endpoint)) {
    return Stage::kPrefill;
  }
  if ((attempt.handed_off || attempt.local()) && stuck(Stage::kDecode, attempt.decode_endpoint)) return Stage::kDecode;
  return absl::nullopt;
}

}  // namespace baton
