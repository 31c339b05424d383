// What the workers of a generation's attempts say, and what follows from it.
#include <utility>

#include "common/rpc/status_mapping.h"
#include "common/rpc/trace_metadata.h"
#include "common/rpc/worker_request.h"
#include "gateway/end_samples.h"
#include "gateway/generation_session.h"
#include "gateway/trace_report.h"

namespace baton {
namespace {

using worker::v1::DecodeEvent;
using worker::v1::DecodeRequest;
using worker::v1::PrefillEvent;
using worker::v1::PrefillRequest;

// Chunks that may overtake the first token; a decode worker cannot be further ahead than that.
constexpr size_t kMaxEarlyEvents = 4096;

// A span of a call to a worker.
Span CallSpan(const Span& attempt, const char* name, const std::string& endpoint) {
  Span span = attempt.Child(name, SpanKind::kClient);
  span.Set("rpc.system", "grpc");
  span.Set(kWorkerEndpointKey, endpoint);
  return span;
}

void EndCallSpan(const Span& span, const grpc::Status& status) {
  span.Set("rpc.grpc.status_code", static_cast<int64_t>(status.error_code()));
  if (!status.ok()) span.Fail(status.error_message());
  span.End();
}

absl::Status EndedWithoutReason() { return absl::InternalError("a decode worker ended a stream without saying why"); }

template <typename T>
const T* PointerTo(const absl::optional<T>& value) {
  return value.has_value() ? &*value : nullptr;
}

}  // namespace

void GenerationSession::BeginAttempt(Branch& branch, Route route) {
  branch.number = ++attempt_numbers_;
  ++record_.attempts;
  branch.attempt = Attempt();
  branch.attempt.route = std::move(route);
  branch.attempt.last_event = Clock::now();
  if (branch.attempt.route.prefill) branch.attempt.prefill_endpoint = branch.attempt.route.prefill.endpoint();
  const bool needs_decode = static_cast<bool>(branch.attempt.route.decode);
  if (needs_decode) branch.attempt.decode_endpoint = branch.attempt.route.decode.endpoint();
  TraceAttempt(branch);
  if (!branch.resumed) prompt_scores_->BeginAttempt();
  if (needs_decode) {
    StartDecode(branch);
  } else {
    StartPrefill(branch, nullptr);
  }
  if (environment_.stall_timeout > Clock::duration::zero()) Watch(branch, Clock::now() + environment_.stall_timeout);
  if (environment_.hedge.after.has_value() && !hedged_ && !branch.resumed) {
    WatchForHedge(branch, Clock::now() + *environment_.hedge.after);
  }
}

void GenerationSession::TraceAttempt(Branch& branch) {
  Attempt& attempt = branch.attempt;
  attempt.span = record_.span.Child("attempt");
  if (!attempt.span) return;
  attempt.span.Set("baton.attempt", record_.attempts);
  if (attempt.local()) attempt.span.Set("baton.local_prefill", true);
  if (&branch == hedge_) attempt.span.Set("baton.hedge", true);
  if (!branch.resumed) return;
  attempt.span.Set("baton.choice", branch.choices.front());
  attempt.span.Set("baton.continued_tokens", static_cast<int64_t>(choices_->tokens(branch.choices.front()).size()));
}

void GenerationSession::StartDecode(Branch& branch) {
  const std::shared_ptr<WorkerConnection> connection = branch.attempt.route.decode.connection();
  const std::shared_ptr<GenerationSession> self = shared_from_this();
  const int number = branch.number;
  const absl::optional<Continuation> continuation = ContinuationOf(branch);
  branch.attempt.decode_span =
      CallSpan(branch.attempt.span, "baton.worker.v1.Decode/Run", branch.attempt.decode_endpoint);
  branch.attempt.decode = DecodeCall::Start(
      [&](grpc::ClientContext* context, const DecodeRequest* request, grpc::ClientReadReactor<DecodeEvent>* reactor) {
        AddTraceContext(branch.attempt.decode_span, context);
        connection->decode->async()->Run(context, request, reactor);
      },
      MakeDecodeRequest(plan_, branch.attempt.route, PointerTo(continuation)), deadline_,
      [self, number, at = &branch](DecodeEvent& event) {
        self->InAttempt(at, number, [&] { self->OnDecodeEvent(*at, event); });
      },
      [self, number, at = &branch](const grpc::Status& status) {
        self->InAttempt(at, number, [&] { self->OnDecodeEnd(*at, status); });
      });
}

void GenerationSession::StartPrefill(Branch& branch, const worker::v1::Reservation* reservation) {
  const std::shared_ptr<WorkerConnection> connection = branch.attempt.route.prefill.connection();
  const std::shared_ptr<GenerationSession> self = shared_from_this();
  const int number = branch.number;
  const absl::optional<Continuation> continuation = ContinuationOf(branch);
  branch.attempt.prefill_span =
      CallSpan(branch.attempt.span, "baton.worker.v1.Prefill/Run", branch.attempt.prefill_endpoint);
  branch.attempt.prefill = PrefillCall::Start(
      [&](grpc::ClientContext* context, const PrefillRequest* to_send, grpc::ClientReadReactor<PrefillEvent>* reactor) {
        AddTraceContext(branch.attempt.prefill_span, context);
        connection->prefill->async()->Run(context, to_send, reactor);
      },
      MakePrefillRequest(plan_, reservation, PointerTo(continuation)), deadline_,
      [self, number, at = &branch](PrefillEvent& event) {
        self->InAttempt(at, number, [&] { self->OnPrefillEvent(*at, event); });
      },
      [self, number, at = &branch](const grpc::Status& status) {
        self->InAttempt(at, number, [&] { self->OnPrefillEnd(*at, status); });
      });
  branch.attempt.route.prefill.Confirm();
  branch.attempt.prompt_begun = Clock::now();
}

void GenerationSession::OnDecodeEvent(Branch& branch, DecodeEvent& event) {
  branch.attempt.last_event = Clock::now();
  if (event.has_reservation()) return OnReservation(branch, event.reservation());
  if (!branch.attempt.reserved) {
    return Broken(branch, absl::InternalError("a decode worker sent events before its reservation"));
  }
  if (event.has_first_token()) {
    if (!branch.attempt.local()) {
      return Broken(branch, absl::InternalError("a decode worker sent a first token that was not its own"));
    }
    if (!branch.resumed) cached_tokens_ = event.first_token().cached_tokens();
    return OnFirstToken(branch, event.first_token());
  }
  if (event.has_leaving()) return HandleLeaving(branch, event.leaving());
  if (branch.attempt.has_first) return HandleProgress(branch, event);
  if (branch.attempt.early.size() >= kMaxEarlyEvents) {
    return Broken(branch, absl::InternalError("a decode worker went on without the prefill worker's first token"));
  }
  branch.attempt.early.push_back(std::move(event));
}

void GenerationSession::OnReservation(Branch& branch, const worker::v1::Reservation& reservation) {
  if (branch.attempt.reserved) {
    return Broken(branch, absl::InternalError("a decode worker sent a second reservation"));
  }
  branch.attempt.reserved = true;
  branch.attempt.decode_span.Event("reserved");
  branch.attempt.reservation = reservation;
  branch.attempt.route.decode.Confirm(reservation.bytes());
  if (!branch.attempt.local()) return StartPrefill(branch, &reservation);
  branch.attempt.prompt_begun = Clock::now();
}

void GenerationSession::HandleProgress(Branch& branch, const DecodeEvent& event) {
  if (!event.has_progress()) return Fail(absl::InternalError("a decode worker sent an event of an unknown kind"));
  if (!branch.attempt.handed_off) {
    branch.attempt.handed_off = true;
    branch.attempt.decode_span.Event("first tokens");
    environment_.router->Worked(Stage::kDecode, branch.attempt.decode_endpoint);
    branch.Progressed();
  }
  NoteCheckpoints(branch, event.progress());
  std::vector<ChoiceEvent> events;
  const absl::Status status = choices_->AddProgress(event.progress(), branch.choices, &events);
  if (!status.ok()) return Fail(status);
  if (!Relay(std::move(events))) return;
  if (choices_->complete()) return Complete();
  EndUnwantedSamples(branch);
}

void GenerationSession::NoteCheckpoints(Branch& branch, const worker::v1::Progress& progress) {
  for (const worker::v1::StateCheckpoint& checkpoint : progress.checkpoints()) {
    const bool known = checkpoint.standby() >= 0 &&
                       checkpoint.standby() < static_cast<int32_t>(branch.attempt.route.standbys.size()) &&
                       CheckSessionKey(checkpoint.key()).ok();
    // Of no use, and no harm.
    if (known) branch.attempt.checkpoints[checkpoint.sample()] = checkpoint;
  }
}

void GenerationSession::HandleLeaving(Branch& branch, const worker::v1::Leaving& leaving) {
  for (const worker::v1::LeftSample& left : leaving.samples()) {
    // Of no use, and no harm: its state is computed.
    if (CheckSessionKey(left.key()).ok()) branch.attempt.left[left.sample()] = left.key();
  }
}

void GenerationSession::EndUnwantedSamples(Branch& branch) {
  const std::vector<int32_t> samples = choices_->TakeUnwanted(branch.choices);
  if (samples.empty()) return;
  // Its one choice: the calls are wanted no more.
  if (branch.resumed) return DropAttempt(branch);
  EndSamples(branch.attempt.route.decode.connection(), branch.attempt.reservation, samples, SampleEnding::kDrop);
}

bool GenerationSession::CutOffToKeep() {
  if (!plan_.keep.has_value()) return false;
  // Its one choice is this one's, on whatever workers.
  const Attempt& attempt = FirstBranch().attempt;
  if (attempt.decode == nullptr || !attempt.has_first) return false;
  if (choices_->all_ended()) return true;
  choices_->CutOff(v1::FINISH_REASON_TIME_LIMIT);
  EndSamples(attempt.route.decode.connection(), attempt.reservation, {0}, SampleEnding::kComplete);
  return true;
}

void GenerationSession::EndBranch(Branch& branch) {
  std::vector<ChoiceEvent> events;
  choices_->FinishEnded(branch.choices, &events);
  if (!Relay(std::move(events))) return;
  if (choices_->complete() || choices_->all_ended()) Complete();
}

void GenerationSession::OnDecodeEnd(Branch& branch, const grpc::Status& status) {
  branch.attempt.decode.reset();
  EndCallSpan(branch.attempt.decode_span, status);
  if (choices_->all_ended(branch.choices)) return EndBranch(branch);
  if (time_is_up_) return CompleteWithTimeLimit();
  const bool may_be_complete = !branch.attempt.has_first && status.ok() && !branch.attempt.early.empty() &&
                               !branch.attempt.early.back().progress().done().empty();
  if (may_be_complete) return;  // The first tokens are still on their way.
  if (status.ok()) return Broken(branch, EndedWithoutReason());
  OnFailure(branch, Stage::kDecode, status);
}

void GenerationSession::OnPrefillEvent(Branch& branch, PrefillEvent& event) {
  branch.attempt.last_event = Clock::now();
  if (event.has_scores()) {
    v1::GenerateEvent out;
    const absl::Status status = prompt_scores_->Add(event.scores(), out.mutable_prompt_logprobs());
    if (!status.ok()) return Broken(branch, status);
    if (out.prompt_logprobs().tokens().empty()) return;
    if (hedge_ != nullptr) WinRace(branch);
    Push(std::move(out));
  } else if (event.has_first_token()) {
    if (!branch.resumed) cached_tokens_ = event.first_token().cached_tokens();
    OnFirstToken(branch, event.first_token());
  } else if (event.has_done()) {
    branch.attempt.prefill_done = true;
    if (!branch.resumed) cached_tokens_ = event.done().cached_tokens();
    if (choices_->all_ended(branch.choices) && !choices_->waits_for_session()) EndBranch(branch);
  } else {
    Broken(branch, absl::InternalError("a prefill worker sent an event of an unknown kind"));
  }
}

void GenerationSession::OnFirstToken(Branch& branch, const worker::v1::FirstToken& first) {
  if (branch.attempt.has_first) return Fail(absl::InternalError("a prefill worker sent a second first token"));
  if (hedge_ != nullptr) {
    // Before the other one is let go.
    const absl::Status relayable = CheckFirst(branch, first);
    if (!relayable.ok()) return Broken(branch, relayable);
    WinRace(branch);
  }
  StopTimer(&branch.hedge_timer);
  NotePromptTime(branch, first);
  branch.attempt.has_first = true;
  if (branch.resumed) CountSource(branch, first);
  (branch.attempt.local() ? branch.attempt.decode_span : branch.attempt.prefill_span).Event("first token");
  environment_.router->Worked(Stage::kPrefill, branch.attempt.prefill_endpoint);
  std::vector<ChoiceEvent> events;
  absl::Status status = choices_->AddFirst(first, branch.choices, &events);
  if (status.ok() && !branch.resumed) status = prompt_scores_->CheckComplete();
  if (!status.ok()) return Fail(status);
  // Computed: no longer a load on this worker.
  branch.attempt.route.prefill.Release();
  if (!Relay(std::move(events))) return;
  if (!branch.resumed) {
    record_.time_to_first_token = record_.Elapsed();
    record_.span.Event("first token");
    plan_.model->metrics->time_to_first_token.Observe(record_.time_to_first_token);
  }
  if (choices_->all_ended(branch.choices)) {
    // With the worker's own word for it, Done follows at once and completes the request.
    if (!choices_->ended_by_worker(branch.choices) && !choices_->waits_for_session()) return EndBranch(branch);
    if (!choices_->waits_for_session()) return;
  }
  if (choices_->complete()) return Complete();
  if (branch.attempt.decode_endpoint.empty()) {
    return Fail(absl::InternalError("a prefill worker did not end a request of one token"));
  }
  EndUnwantedSamples(branch);
  const std::vector<DecodeEvent> early = std::move(branch.attempt.early);
  branch.attempt.early.clear();
  for (const DecodeEvent& event : early) {
    HandleProgress(branch, event);
    if (ended_) return;
  }
  if (branch.attempt.decode != nullptr) return;
  choices_->all_ended(branch.choices) ? EndBranch(branch) : Fail(EndedWithoutReason());
}

void GenerationSession::CountSource(const Branch& branch, const worker::v1::FirstToken& first) const {
  const char* source = "recompute";
  if (branch.state.has_value() && first.cached_tokens() >= branch.state->tokens) {
    source = branch.state->standby != nullptr ? "checkpoint" : "handoff";
  }
  plan_.model->metrics->CountResumed(source);
}

void GenerationSession::OnPrefillEnd(Branch& branch, const grpc::Status& status) {
  branch.attempt.prefill.reset();
  EndCallSpan(branch.attempt.prefill_span, status);
  if (choices_->all_ended(branch.choices)) {
    // The answer is whole; what fails now is only that it is kept.
    if (!status.ok() || !choices_->waits_for_session()) EndBranch(branch);
    return;
  }
  if (!status.ok()) {
    // Once the decode worker runs, the prefill worker has done its part.
    if (!branch.attempt.handed_off) OnFailure(branch, Stage::kPrefill, status);
    return;
  }
  if (branch.attempt.has_first) return;
  Broken(branch, absl::InternalError("a prefill worker ended a stream without a first token"));
}

}  // namespace baton
