#include "prefill/prefill_service.h"

#include <memory>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/event_writer.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

using worker::v1::PrefillEvent;
using worker::v1::PrefillRequest;

// Events a caller may leave unread: a long scored prompt makes one for each step.
constexpr size_t kMaxQueuedEvents = 1024;

}  // namespace

PrefillService::PrefillService(const PrefillLimits& limits, PrefillEngine* engine, PrefillMetrics* metrics,
                               DrainGate* gate)
    : limits_(limits), engine_(engine), metrics_(metrics), gate_(gate) {}

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
      entered ? Accept(*request, call)
              : WithReason(absl::UnavailableError("this prefill worker is draining; try another"), "DRAINING");
  if (!status.ok()) {
    metrics_->finished_refused.Increment();
    Log(Severity::kInfo, "prefill_refused")
        .With("request_id", request->request_id().substr(0, kMaxRequestIdBytes))
        .With("prompt_tokens", request->tokens_size())
        .With("error", status);
    call->events->Finish(ToGrpcStatus(status));
  }
  return reactor;
}

absl::Status PrefillService::Accept(const PrefillRequest& request, const std::shared_ptr<PrefillCall>& call) {
  BATON_ASSIGN_OR_RETURN(call->prompt, CheckPrefillRequest(request, limits_));
  return engine_->Submit(call);
}

}  // namespace baton
