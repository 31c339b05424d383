#include "gateway/score_session.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/rpc/status_mapping.h"
#include "common/rpc/trace_metadata.h"
#include "gateway/stall_rule.h"
#include "gateway/token_relay.h"
#include "gateway/trace_report.h"
#include "gateway/worker_failure.h"
#include "gateway/worker_requests.h"

namespace baton {
namespace {

using worker::v1::PrefillEvent;
using worker::v1::PrefillRequest;

// Continuations of one request that are computed at a time: enough to fill a batch, too few to crowd others out.
constexpr size_t kParallelContinuations = 8;
// Until a full worker is asked again; it reports its load about as often.
constexpr Clock::duration kFullPause = std::chrono::milliseconds(100);

absl::Status BrokenContract(const char* what) {
  return absl::InternalError(absl::StrCat("a prefill worker broke the protocol: ", what));
}

}  // namespace

ScoreSession::ScoreSession(const SessionEnvironment& environment, RequestRecord record,
                           std::chrono::system_clock::time_point deadline)
    : environment_(environment),
      deadline_(deadline),
      record_(std::move(record)),
      preparing_(record_.span.Child("prepare")) {}

void ScoreSession::Open(OnEnd on_end) {
  std::lock_guard<std::mutex> lock(mutex_);
  on_end_ = std::move(on_end);
}

void ScoreSession::Start(absl::StatusOr<ScorePlan> plan) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (ended_) return;  // Cancelled meanwhile.
  preparing_.End();
  if (!plan.ok()) return End(plan.status());
  plan_ = *std::move(plan);
  items_ = std::vector<Item>(plan_.continuations.size());
  record_.prompt_tokens = static_cast<int64_t>(plan_.context.size());
  waiting_ = record_.span.Child("queue");
  const std::weak_ptr<ScoreSession> weak = weak_from_this();
  ticket_ = std::make_shared<AdmissionTicket>(
      AdmissionRequest{DemandOf(plan_, 0), plan_.priority, record_.identity, deadline_}, plan_.model->metrics,
      [weak](absl::StatusOr<Route> route) {
        const std::shared_ptr<ScoreSession> session = weak.lock();
        if (session == nullptr) return;
        std::lock_guard<std::mutex> session_lock(session->mutex_);
        if (!session->ended_) session->OnRoute(std::move(route));
      });
  absl::StatusOr<absl::optional<Route>> route = environment_.queue->Enter(ticket_);
  if (!route.ok()) return End(route.status());
  if (route->has_value()) OnRoute(std::move(**route));
}

void ScoreSession::Cancel() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!ended_) End(CancelledStatus());
}

void ScoreSession::Abort(const absl::Status& status) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!ended_) End(status);
}

absl::Status ScoreSession::CancelledStatus() const {
  if (std::chrono::system_clock::now() >= deadline_) {
    return absl::DeadlineExceededError("the deadline of the call passed before scoring was complete");
  }
  return absl::CancelledError("the caller went away");
}

void ScoreSession::OnRoute(absl::StatusOr<Route> route) {
  if (!route.ok()) return End(route.status());
  waiting_.End();
  record_.attempts = 1;
  record_.queue_seconds = record_.Elapsed();
  plan_.model->metrics->queue_seconds.Observe(record_.queue_seconds);
  size_t tokens = plan_.context.size();
  for (const std::vector<int32_t>& continuation : plan_.continuations) tokens += continuation.size();
  plan_.model->metrics->admitted_prompt_tokens.Increment(static_cast<double>(tokens));
  if (environment_.stall_timeout > Clock::duration::zero()) Watch();
  next_item_ = 1;
  running_ = 1;
  StartItem(0, std::move(route->prefill));
  StartItems();
}

void ScoreSession::StartItems() {
  while (!ended_ && next_item_ < items_.size() && running_ < kParallelContinuations) {
    ++running_;
    PlaceItem(next_item_++);
  }
}

void ScoreSession::PlaceItem(size_t index) {
  absl::StatusOr<Route> route = environment_.router->Place(DemandOf(plan_, index), items_[index].avoid);
  if (absl::IsResourceExhausted(route.status())) return PlaceItemLater(index, kFullPause);
  if (!route.ok()) return End(route.status());
  StartItem(index, std::move(route->prefill));
}

void ScoreSession::PlaceItemLater(size_t index, Clock::duration pause) {
  const std::weak_ptr<ScoreSession> weak = weak_from_this();
  environment_.timers->After(pause, [weak, index] {
    const std::shared_ptr<ScoreSession> session = weak.lock();
    if (session == nullptr) return;
    std::lock_guard<std::mutex> lock(session->mutex_);
    if (!session->ended_) session->PlaceItem(index);
  });
}

void ScoreSession::StartItem(size_t index, Placement placement) {
  Item& item = items_[index];
  item.placement = std::move(placement);
  item.score.Clear();
  item.last_event = Clock::now();
  const int attempt = ++item.attempt;
  const std::shared_ptr<WorkerConnection> connection = item.placement.connection();
  const std::shared_ptr<ScoreSession> self = shared_from_this();
  item.span = record_.span.Child("baton.worker.v1.Prefill/Run", SpanKind::kClient);
  item.span.Set("rpc.system", "grpc");
  item.span.Set(kWorkerEndpointKey, connection->endpoint);
  item.span.Set("baton.continuation", static_cast<int64_t>(index));
  if (attempt > 1) item.span.Set("baton.attempt", attempt);
  item.call = PrefillCall::Start(
      [&](grpc::ClientContext* context, const PrefillRequest* to_send, grpc::ClientReadReactor<PrefillEvent>* reactor) {
        AddTraceContext(item.span, context);
        connection->prefill->async()->Run(context, to_send, reactor);
      },
      MakeScoreRequest(plan_, index), deadline_,
      [self, index, attempt](PrefillEvent& event) {
        std::lock_guard<std::mutex> lock(self->mutex_);
        if (!self->ended_ && self->items_[index].attempt == attempt) self->OnEvent(index, event);
      },
      [self, index, attempt](const grpc::Status& status) {
        std::lock_guard<std::mutex> lock(self->mutex_);
        if (!self->ended_ && self->items_[index].attempt == attempt) self->OnCallEnd(index, status);
      });
  item.placement.Confirm();
}

void ScoreSession::Watch() {
  const std::weak_ptr<ScoreSession> weak = weak_from_this();
  watchdog_ = environment_.timers->After(environment_.stall_timeout / 4, [weak] {
    const std::shared_ptr<ScoreSession> session = weak.lock();
    if (session == nullptr) return;
    std::lock_guard<std::mutex> lock(session->mutex_);
    if (!session->ended_) session->OnWatch();
  });
}

void ScoreSession::OnWatch() {
  const StallRule rule{environment_.stall_timeout, Clock::now()};
  for (size_t index = 0; index < items_.size() && !ended_; ++index) {
    const Item& item = items_[index];
    if (item.call == nullptr || !rule.Quiet(item.last_event)) continue;
    const WorkerPulse pulse = environment_.router->Pulse(Stage::kPrefill, item.placement.endpoint());
    if (!rule.Silent(pulse) && !rule.Stuck(pulse, item.last_event)) continue;
    item.call->Cancel();
    OnCallEnd(index, ToGrpcStatus(rule.Error(item.last_event)));
  }
  if (!ended_) Watch();
}

void ScoreSession::OnEvent(size_t index, const PrefillEvent& event) {
  items_[index].last_event = Clock::now();
  if (event.has_done()) {
    items_[index].cached_tokens = event.done().cached_tokens();
    return;
  }
  if (!event.has_scores()) return End(BrokenContract("more than scores for a request of scores only"));
  const worker::v1::PromptScores& scores = event.scores();
  const std::vector<int32_t>& continuation = plan_.continuations[index];
  v1::ContinuationScore& score = items_[index].score;
  const int64_t due = static_cast<int64_t>(plan_.context.size()) + score.tokens_size();
  if (scores.first() != due || scores.ids_size() != scores.logprobs_size() ||
      due + scores.ids_size() > TokensOf(index)) {
    return End(BrokenContract("scores of other positions than were due"));
  }
  if (score.tokens().empty()) score.set_is_greedy(true);
  for (int i = 0; i < scores.ids_size(); ++i) {
    if (scores.ids(i) != continuation[static_cast<size_t>(score.tokens_size())]) {
      return End(BrokenContract("scores of other tokens than were sent"));
    }
    absl::StatusOr<v1::TokenLogprob> logprob = ToClientLogprob(*plan_.model, scores.ids(i), scores.logprobs(i));
    if (!logprob.ok()) return End(logprob.status());
    score.set_logprob(score.logprob() + static_cast<double>(logprob->logprob()));
    if (!scores.logprobs(i).is_greedy()) score.set_is_greedy(false);
    *score.add_tokens() = *std::move(logprob);
  }
}

void ScoreSession::OnCallEnd(size_t index, const grpc::Status& status) {
  Item& item = items_[index];
  item.call.reset();
  // What still arrives of it is late.
  ++item.attempt;
  item.span.Set("rpc.grpc.status_code", static_cast<int64_t>(status.error_code()));
  if (!status.ok()) item.span.Fail(status.error_message());
  item.span.End();
  if (status.ok()) {
    if (item.score.tokens_size() != static_cast<int>(plan_.continuations[index].size())) {
      return End(BrokenContract("scores are missing"));
    }
    item.placement.Release();
    item.complete = true;
    --running_;
    if (++complete_ == items_.size()) return Complete();
    return StartItems();
  }
  const std::string endpoint = item.placement.endpoint();
  const WorkerFailure failure = ClassifyFailure(Stage::kPrefill, endpoint, status);
  Placement placement = std::move(item.placement);
  switch (failure.kind) {
    case FailureKind::kFinal:
      return End(failure.status);
    case FailureKind::kFull:
      placement.ReportRefused();
      return PlaceItemLater(index, kFullPause);
    case FailureKind::kRetriable:
      placement.ReportFailed();
      item.avoid.insert(endpoint);
      if (++item.failures >= environment_.max_attempts) return End(failure.status);
      plan_.model->metrics->CountRetry(Stage::kPrefill);
      return PlaceItemLater(index, environment_.retry_pause * (1 << (item.failures - 1)));
  }
}

void ScoreSession::Complete() {
  v1::ScoreResponse response;
  response.set_request_id(plan_.request_id);
  response.set_model(plan_.model->name);
  const int32_t context = static_cast<int32_t>(plan_.context.size());
  int32_t scored = 0;
  // What some continuation computed was computed.
  int32_t cached = context;
  for (Item& item : items_) {
    cached = std::clamp(item.cached_tokens, 0, cached);
    scored += item.score.tokens_size();
    *response.add_scores() = std::move(item.score);
  }
  record_.output_tokens = scored;
  record_.cached_tokens = cached;
  response.mutable_usage()->set_prompt_tokens(context);
  response.mutable_usage()->set_cached_prompt_tokens(cached);
  response.mutable_usage()->set_completion_tokens(scored);
  response.mutable_usage()->set_total_tokens(context + scored);
  End(std::move(response));
}

void ScoreSession::End(absl::StatusOr<v1::ScoreResponse> response) {
  ended_ = true;
  for (Item& item : items_) {
    if (item.call != nullptr) item.call->Cancel();
    item.call.reset();
    item.placement.Release();
  }
  if (watchdog_.has_value()) environment_.timers->Cancel(*watchdog_);
  if (ticket_ != nullptr) environment_.queue->Leave(ticket_);
  record_.Finish(response.status());
  on_end_(std::move(response));
}

}  // namespace baton
