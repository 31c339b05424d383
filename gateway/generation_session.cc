#include "gateway/generation_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/rpc/status_mapping.h"
#include "gateway/end_samples.h"
#include "gateway/session_handle.h"
#include "gateway/worker_requests.h"

namespace baton {
namespace {

using worker::v1::DecodeEvent;
using worker::v1::DecodeRequest;
using worker::v1::PrefillEvent;
using worker::v1::PrefillRequest;

// Chunks that may overtake the first token; a decode worker cannot be further ahead than that.
constexpr size_t kMaxEarlyEvents = 4096;

absl::Status EndedWithoutReason() { return absl::InternalError("a decode worker ended a stream without saying why"); }

}  // namespace

GenerationSession::GenerationSession(const SessionEnvironment& environment, RequestRecord record,
                                     std::chrono::system_clock::time_point deadline)
    : environment_(environment), deadline_(deadline), record_(std::move(record)) {}

template <typename Step>
void GenerationSession::InAttempt(int attempt, Step step) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!ended_ && attempt == attempt_number_) step();
}

void GenerationSession::Open(std::unique_ptr<GenerationSink> sink) {
  std::lock_guard<std::mutex> lock(mutex_);
  sink_ = std::move(sink);
}

void GenerationSession::Start(absl::StatusOr<GenerationPlan> plan) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (ended_) return;  // Cancelled meanwhile.
  if (!plan.ok()) return Fail(plan.status());
  plan_ = *std::move(plan);
  choices_ = std::make_unique<Choices>(&plan_);
  prompt_scores_ = std::make_unique<PromptScoreRelay>(&plan_);
  record_.prompt_tokens = static_cast<int64_t>(plan_.prompt.size());
  record_.choices = plan_.choices();
  const std::weak_ptr<GenerationSession> weak = weak_from_this();
  ticket_ = std::make_shared<AdmissionTicket>(DemandOf(plan_), plan_.priority, plan_.model->metrics,
                                              [weak](absl::StatusOr<Route> route) {
                                                const std::shared_ptr<GenerationSession> session = weak.lock();
                                                if (session == nullptr) return;
                                                std::lock_guard<std::mutex> session_lock(session->mutex_);
                                                if (!session->ended_) session->OnRoute(std::move(route));
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
      time_limit_ =
          environment_.timers->At(record_.accepted + std::chrono::duration_cast<Clock::duration>(limit), [weak] {
            const std::shared_ptr<GenerationSession> session = weak.lock();
            if (session == nullptr) return;
            std::lock_guard<std::mutex> session_lock(session->mutex_);
            if (!session->ended_) session->CompleteWith(v1::FINISH_REASON_TIME_LIMIT);
          });
    }
  }
  if (route->has_value()) OnRoute(std::move(**route));
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

void GenerationSession::OnRoute(absl::StatusOr<Route> route) {
  if (!route.ok()) return Fail(route.status());
  if (!routed_before_) {
    routed_before_ = true;
    record_.queue_seconds = record_.Elapsed();
    plan_.model->metrics->queue_seconds.Observe(record_.queue_seconds);
  }
  BeginAttempt(*std::move(route));
}

void GenerationSession::BeginAttempt(Route route) {
  ++attempt_number_;
  record_.attempts = failures_ + 1;
  attempt_ = Attempt();
  attempt_.route = std::move(route);
  if (attempt_.route.prefill) attempt_.prefill_endpoint = attempt_.route.prefill.endpoint();
  if (plan_.needs_decode()) attempt_.decode_endpoint = attempt_.route.decode.endpoint();
  prompt_scores_->BeginAttempt();
  if (plan_.needs_decode()) {
    StartDecode();
  } else {
    StartPrefill(nullptr);
  }
}

void GenerationSession::StartDecode() {
  const std::shared_ptr<WorkerConnection> connection = attempt_.route.decode.connection();
  const std::shared_ptr<GenerationSession> self = shared_from_this();
  const int number = attempt_number_;
  attempt_.decode = DecodeCall::Start(
      [&](grpc::ClientContext* context, const DecodeRequest* request, grpc::ClientReadReactor<DecodeEvent>* reactor) {
        connection->decode->async()->Run(context, request, reactor);
      },
      MakeDecodeRequest(plan_, attempt_.route.prompt_place), deadline_,
      [self, number](DecodeEvent& event) { self->InAttempt(number, [&] { self->OnDecodeEvent(event); }); },
      [self, number](const grpc::Status& status) { self->InAttempt(number, [&] { self->OnDecodeEnd(status); }); });
}

void GenerationSession::StartPrefill(const worker::v1::Reservation* reservation) {
  const std::shared_ptr<WorkerConnection> connection = attempt_.route.prefill.connection();
  const std::shared_ptr<GenerationSession> self = shared_from_this();
  const int number = attempt_number_;
  attempt_.prefill = PrefillCall::Start(
      [&](grpc::ClientContext* context, const PrefillRequest* to_send, grpc::ClientReadReactor<PrefillEvent>* reactor) {
        connection->prefill->async()->Run(context, to_send, reactor);
      },
      MakePrefillRequest(plan_, reservation), deadline_,
      [self, number](PrefillEvent& event) { self->InAttempt(number, [&] { self->OnPrefillEvent(event); }); },
      [self, number](const grpc::Status& status) { self->InAttempt(number, [&] { self->OnPrefillEnd(status); }); });
  attempt_.route.prefill.Confirm();
}

void GenerationSession::OnDecodeEvent(DecodeEvent& event) {
  if (event.has_reservation()) return OnReservation(event.reservation());
  if (!attempt_.reserved) return Fail(absl::InternalError("a decode worker sent events before its reservation"));
  if (event.has_first_token()) {
    if (!attempt_.local()) return Fail(absl::InternalError("a decode worker sent a first token that was not its own"));
    cached_tokens_ = event.first_token().cached_tokens();
    return OnFirstToken(event.first_token());
  }
  if (choices_->has_first()) return HandleProgress(event);
  if (attempt_.early.size() >= kMaxEarlyEvents) {
    return Fail(absl::InternalError("a decode worker went on without the prefill worker's first token"));
  }
  attempt_.early.push_back(std::move(event));
}

void GenerationSession::OnReservation(const worker::v1::Reservation& reservation) {
  if (attempt_.reserved) return Fail(absl::InternalError("a decode worker sent a second reservation"));
  attempt_.reserved = true;
  attempt_.reservation = reservation;
  attempt_.route.decode.Confirm(reservation.bytes());
  if (!attempt_.local()) StartPrefill(&reservation);
}

void GenerationSession::HandleProgress(const DecodeEvent& event) {
  if (!event.has_progress()) return Fail(absl::InternalError("a decode worker sent an event of an unknown kind"));
  attempt_.handed_off = true;
  std::vector<ChoiceEvent> events;
  const absl::Status status = choices_->AddProgress(event.progress(), &events);
  if (!status.ok()) return Fail(status);
  if (!Relay(std::move(events))) return;
  if (choices_->complete()) return Complete();
  EndUnwantedSamples();
}

void GenerationSession::EndUnwantedSamples() {
  const std::vector<int32_t> samples = choices_->TakeUnwanted();
  if (!samples.empty()) EndSamples(attempt_.route.decode.connection(), attempt_.reservation, samples);
}

void GenerationSession::OnDecodeEnd(const grpc::Status& status) {
  attempt_.decode.reset();
  if (choices_->all_ended()) return Complete();
  const bool may_be_complete = !choices_->has_first() && status.ok() && !attempt_.early.empty() &&
                               !attempt_.early.back().progress().done().empty();
  if (may_be_complete) return;  // The first tokens are still on their way.
  if (status.ok()) return Fail(EndedWithoutReason());
  OnFailure(Stage::kDecode, status);
}

void GenerationSession::OnPrefillEvent(PrefillEvent& event) {
  if (event.has_scores()) {
    v1::GenerateEvent out;
    const absl::Status status = prompt_scores_->Add(event.scores(), out.mutable_prompt_logprobs());
    if (!status.ok()) return Fail(status);
    if (!out.prompt_logprobs().tokens().empty()) Push(std::move(out));
  } else if (event.has_first_token()) {
    cached_tokens_ = event.first_token().cached_tokens();
    OnFirstToken(event.first_token());
  } else if (event.has_done()) {
    attempt_.prefill_done = true;
    cached_tokens_ = event.done().cached_tokens();
    if (choices_->all_ended() && !choices_->waits_for_session()) Complete();
  } else {
    Fail(absl::InternalError("a prefill worker sent an event of an unknown kind"));
  }
}

void GenerationSession::OnFirstToken(const worker::v1::FirstToken& first) {
  std::vector<ChoiceEvent> events;
  absl::Status status = choices_->AddFirst(first, &events);
  if (status.ok()) status = prompt_scores_->CheckComplete();
  if (!status.ok()) return Fail(status);
  // Computed: no longer a load on this worker.
  attempt_.route.prefill.Release();
  if (!Relay(std::move(events))) return;
  record_.time_to_first_token = record_.Elapsed();
  plan_.model->metrics->time_to_first_token.Observe(record_.time_to_first_token);
  if (choices_->all_ended()) {
    // With the worker's own word for it, Done follows at once and completes the request.
    if (!choices_->ended_by_worker() && !choices_->waits_for_session()) return Complete();
    if (!choices_->waits_for_session()) return;
  }
  if (choices_->complete()) return Complete();
  if (!plan_.needs_decode()) return Fail(absl::InternalError("a prefill worker did not end a request of one token"));
  EndUnwantedSamples();
  const std::vector<DecodeEvent> early = std::move(attempt_.early);
  attempt_.early.clear();
  for (const DecodeEvent& event : early) {
    HandleProgress(event);
    if (ended_) return;
  }
  if (attempt_.decode != nullptr) return;
  choices_->all_ended() ? Complete() : Fail(EndedWithoutReason());
}

void GenerationSession::OnPrefillEnd(const grpc::Status& status) {
  attempt_.prefill.reset();
  if (choices_->all_ended()) {
    // The answer is whole; what fails now is only that it is kept.
    if (!status.ok() || !choices_->waits_for_session()) Complete();
    return;
  }
  if (!status.ok()) {
    // Once the decode worker runs, the prefill worker has done its part.
    if (!attempt_.handed_off) OnFailure(Stage::kPrefill, status);
    return;
  }
  if (!choices_->has_first()) Fail(absl::InternalError("a prefill worker ended a stream without a first token"));
}

void GenerationSession::OnFailure(Stage stage, const grpc::Status& grpc_status) {
  const std::string& endpoint = stage == Stage::kPrefill ? attempt_.prefill_endpoint : attempt_.decode_endpoint;
  const WorkerFailure failure = ClassifyFailure(stage, endpoint, grpc_status);
  if (choices_->has_first()) {
    absl::Status status = failure.status;
    if (failure.kind == FailureKind::kRetriable) {
      status = absl::Status(status.code(), absl::StrCat(status.message(), " (after ", choices_->completion_tokens(),
                                                        " tokens; send the request again)"));
      failure.status.ForEachPayload(
          [&](absl::string_view type_url, const absl::Cord& payload) { status.SetPayload(type_url, payload); });
    }
    return Fail(status);
  }
  if (attempt_.local() && failure.kind == FailureKind::kRetriable) ticket_->WantPrefillWorker();
  const bool prefill_blamed = failure.blamed == Stage::kPrefill;
  Placement& blamed = prefill_blamed ? attempt_.route.prefill : attempt_.route.decode;
  switch (failure.kind) {
    case FailureKind::kFinal:
      return Fail(failure.status);
    case FailureKind::kFull:
      blamed.ReportRefused();
      DropAttempt();
      environment_.queue->Requeue(ticket_);
      return;
    case FailureKind::kRetriable:
      blamed.ReportFailed();
      avoid_.insert(prefill_blamed ? attempt_.prefill_endpoint : attempt_.decode_endpoint);
      ++failures_;
      if (failures_ >= environment_.max_attempts) return Fail(failure.status);
      plan_.model->metrics->CountRetry(failure.blamed);
      return TryAgain();
  }
}

void GenerationSession::TryAgain() {
  DropAttempt();
  const std::weak_ptr<GenerationSession> weak = weak_from_this();
  const int number = attempt_number_;
  // A moment for the news of a dead worker to arrive by the registry as well.
  retry_ = environment_.timers->After(environment_.retry_pause * (1 << (failures_ - 1)), [weak, number] {
    const std::shared_ptr<GenerationSession> session = weak.lock();
    if (session == nullptr) return;
    session->InAttempt(number, [&] {
      absl::StatusOr<Route> route = session->environment_.router->Place(session->ticket_->demand(), session->avoid_);
      if (absl::IsResourceExhausted(route.status())) {
        session->environment_.queue->Requeue(session->ticket_);
        return;
      }
      session->OnRoute(std::move(route));
    });
  });
}

void GenerationSession::DropAttempt() {
  ++attempt_number_;
  if (attempt_.decode != nullptr) attempt_.decode->Cancel();
  if (attempt_.prefill != nullptr) attempt_.prefill->Cancel();
  attempt_ = Attempt();
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
  const bool done_is_due = attempt_.prefill != nullptr && !attempt_.prefill_done;
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
    finished->mutable_session()->set_handle(MakeSessionHandle(attempt_.reservation.boot_id(), plan_.keep->id()));
    finished->mutable_session()->set_expires_in_seconds(std::max(0.0, left));
  }
  finished->mutable_timing()->set_queue_seconds(record_.queue_seconds);
  finished->mutable_timing()->set_time_to_first_token_seconds(std::max(0.0, record_.time_to_first_token));
  finished->mutable_timing()->set_total_seconds(record_.Elapsed());
  if (!Push(std::move(event))) return;
  // Workers that have done their part end their calls themselves, and count them as done.
  const bool decode_done = attempt_.handed_off && choices_->ended_by_worker();
  if (decode_done) attempt_.decode.reset();
  if (decode_done || attempt_.prefill_done) attempt_.prefill.reset();
  const v1::FinishReason overall = choices_->OverallReason();
  const Outcome outcome = overall == v1::FINISH_REASON_STOP     ? Outcome::kStop
                          : overall == v1::FINISH_REASON_LENGTH ? Outcome::kLength
                                                                : Outcome::kTimeLimit;
  End(outcome, absl::OkStatus());
}

void GenerationSession::End(Outcome outcome, const absl::Status& status) {
  ended_ = true;
  DropAttempt();
  if (time_limit_.has_value()) environment_.timers->Cancel(*time_limit_);
  if (retry_.has_value()) environment_.timers->Cancel(*retry_);
  if (ticket_ != nullptr) environment_.queue->Leave(ticket_);
  sink_->Finish(status);
  if (choices_ != nullptr) {
    plan_.model->metrics->prompt_tokens.Observe(static_cast<double>(plan_.prompt.size()));
    for (int i = 0; i < plan_.choices(); ++i) {
      plan_.model->metrics->output_tokens.Observe(static_cast<double>(choices_->completion_tokens(i)));
    }
  }
  record_.Finish(outcome, status);
}

}  // namespace baton
