#include "prefill/prefill_service.h"

#include <memory>
#include <string>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/channel.h"
#include "common/rpc/event_writer.h"
#include "common/rpc/status_mapping.h"
#include "common/rpc/trace_metadata.h"
#include "prefill/session_fetch.h"

namespace baton {
namespace {

using worker::v1::PrefillEvent;
using worker::v1::PrefillRequest;

// Events a caller may leave unread: a long scored prompt makes one for each step.
constexpr size_t kMaxQueuedEvents = 1024;

void Refuse(const PrefillCall& call, const std::string& request_id, int64_t prompt_tokens, const absl::Status& status,
            PrefillMetrics* metrics) {
  metrics->finished_refused.Increment();
  Log(Severity::kInfo, "prefill_refused")
      .With("request_id", request_id.substr(0, kMaxRequestIdBytes))
      .With("prompt_tokens", prompt_tokens)
      .With("error", status);
  call.span.Fail(status.message());
  call.span.End();
  call.events->Finish(ToGrpcStatus(status));
}

}  // namespace

PrefillService::PrefillService(const PrefillLimits& limits, PrefillEngine* engine, PrefillMetrics* metrics,
                               DrainGate* gate, std::shared_ptr<const Tracing> tracing)
    : limits_(limits), engine_(engine), metrics_(metrics), gate_(gate), tracing_(std::move(tracing)) {
  absl::MutexLock lock(&engine_link_->mutex);
  engine_link_->engine = engine;
}

PrefillService::~PrefillService() {
  absl::MutexLock lock(&engine_link_->mutex);
  engine_link_->engine = nullptr;
}

grpc::ServerWriteReactor<PrefillEvent>* PrefillService::Run(grpc::CallbackServerContext* context,
                                                            const PrefillRequest* request) {
  auto call = std::make_shared<PrefillCall>();
  call->accepted = absl::Now();
  call->deadline = context->deadline();

  const bool entered = gate_->Enter();
  auto* reactor = new EventWriter<PrefillEvent>(kMaxQueuedEvents, [this, call, entered] {
    call->ended.store(true, std::memory_order_release);
    engine_->Wake();
    if (entered) gate_->Leave();
  });
  call->events = reactor->handle();

  const absl::Status status =
      entered ? Accept(*context, *request, call)
              : WithReason(absl::UnavailableError("this prefill worker is draining; try another"), "DRAINING");
  if (!status.ok()) Refuse(*call, request->request_id(), request->tokens_size(), status, metrics_);
  return reactor;
}

absl::Status PrefillService::Accept(const grpc::CallbackServerContext& context, const PrefillRequest& request,
                                    const std::shared_ptr<PrefillCall>& call) {
  BATON_ASSIGN_OR_RETURN(call->prompt, CheckPrefillRequest(request, limits_));
  BeginTrace(context, call);
  if (FetchFirst(call)) return absl::OkStatus();
  call->queue_span = call->span.Child("queue");
  return engine_->Submit(call);
}

void PrefillService::BeginTrace(const grpc::CallbackServerContext& context,
                                const std::shared_ptr<PrefillCall>& call) const {
  if (tracing_ == nullptr) return;
  const SequenceRequest& request = call->prompt.request;
  call->span = tracing_->tracer().Begin("baton.worker.v1.Prefill/Run", TraceParent(context.client_metadata()),
                                        request.request_id);
  call->span.Set("rpc.system", "grpc");
  call->span.Set("gen_ai.usage.input_tokens", static_cast<int64_t>(request.tokens.size()));
}

std::shared_ptr<grpc::Channel> PrefillService::Channel(const std::string& endpoint) {
  // Workers come and go; far fewer than this are there at a time.
  constexpr size_t kMaxChannels = 256;
  absl::MutexLock lock(&mutex_);
  if (channels_.size() >= kMaxChannels) channels_.clear();
  std::shared_ptr<grpc::Channel>& channel = channels_[endpoint];
  if (channel == nullptr) channel = NewChannel(endpoint, limits_.channel);
  return channel;
}

bool PrefillService::FetchFirst(const std::shared_ptr<PrefillCall>& call) {
  const PrefillPrompt& prompt = call->prompt;
  // Scores need the logits of every token.
  if (!prompt.session.has_value() || prompt.score_from.has_value()) return false;
  absl::StatusOr<SequenceState> state =
      SequenceState::Create(engine_->layout(), engine_->budget(), prompt.tokens_to_compute());
  if (!state.ok()) return false;
  const Span fetch = call->span.Child("fetch session", SpanKind::kClient);
  fetch.Set("server.address", prompt.session->endpoint());
  FetchSession(
      Channel(prompt.session->endpoint()), limits_.request.fingerprint, *prompt.session, call->deadline,
      *std::move(state), [call] { return call->ended.load(std::memory_order_acquire); },
      [call, fetch, link = engine_link_, metrics = metrics_](absl::StatusOr<SequenceState> fetched) {
        if (!fetched.ok()) fetch.Fail(fetched.status().message());
        fetch.End();
        call->queue_span = call->span.Child("queue");
        if (fetched.ok()) {
          call->kept_state = *std::move(fetched);
        } else {
          Log(Severity::kWarning, "session_not_read")
              .With("request_id", call->prompt.request.request_id)
              .With("advice", "the whole prompt is computed")
              .With("error", fetched.status());
        }
        absl::MutexLock lock(&link->mutex);
        const absl::Status status = link->engine != nullptr
                                        ? link->engine->Submit(call)
                                        : absl::UnavailableError("this prefill worker is shutting down");
        if (status.ok()) return;
        call->kept_state.reset();
        // A service that is gone has no metrics any more, and no caller.
        if (link->engine == nullptr) return;
        const SequenceRequest& request = call->prompt.request;
        Refuse(*call, request.request_id, static_cast<int64_t>(request.tokens.size()), status, metrics);
      });
  return true;
}

}  // namespace baton
