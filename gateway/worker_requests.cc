#include "gateway/worker_requests.h"

#include <vector>

namespace baton {
namespace {

using worker::v1::DecodeRequest;
using worker::v1::PrefillRequest;

// What both workers are told alike.
template <typename Request>
Request RequestOf(const GenerationPlan& plan) {
  Request request;
  request.set_request_id(plan.request_id);
  request.set_fingerprint(plan.model->fingerprint);
  request.mutable_tokens()->Add(plan.prompt.begin(), plan.prompt.end());
  *request.mutable_sampling() = plan.sampling;
  *request.mutable_stopping() = plan.stopping;
  request.set_logprobs(plan.logprobs);
  request.set_top_logprobs(plan.top_logprobs);
  request.set_priority(plan.priority);
  return request;
}

}  // namespace

Demand DemandOf(const GenerationPlan& plan) {
  Demand demand;
  demand.fingerprint = plan.model->fingerprint;
  demand.model = plan.model->name;
  demand.prompt_tokens = static_cast<int64_t>(plan.prompt.size());
  demand.state_tokens = plan.needs_decode() ? demand.prompt_tokens + plan.stopping.max_new_tokens() : 0;
  return demand;
}

Demand DemandOf(const ScorePlan& plan, size_t index) {
  Demand demand;
  demand.fingerprint = plan.model->fingerprint;
  demand.model = plan.model->name;
  demand.prompt_tokens = static_cast<int64_t>(plan.context.size() + plan.continuations[index].size());
  return demand;
}

DecodeRequest MakeDecodeRequest(const GenerationPlan& plan) { return RequestOf<DecodeRequest>(plan); }

PrefillRequest MakePrefillRequest(const GenerationPlan& plan, const worker::v1::Reservation* reservation) {
  PrefillRequest request = RequestOf<PrefillRequest>(plan);
  if (plan.prompt_logprobs && plan.prompt.size() > 1) request.set_score_from(1);
  if (reservation != nullptr) {
    worker::v1::Handoff* const handoff = request.mutable_handoff();
    handoff->set_endpoint(reservation->endpoint());
    handoff->set_boot_id(reservation->boot_id());
    handoff->set_reservation_id(reservation->reservation_id());
    handoff->set_generation(reservation->generation());
  }
  return request;
}

PrefillRequest MakeScoreRequest(const ScorePlan& plan, size_t index) {
  PrefillRequest request;
  request.set_request_id(plan.request_id);
  request.set_fingerprint(plan.model->fingerprint);
  request.mutable_tokens()->Add(plan.context.begin(), plan.context.end());
  const std::vector<int32_t>& continuation = plan.continuations[index];
  request.mutable_tokens()->Add(continuation.begin(), continuation.end());
  request.set_logprobs(true);
  request.set_top_logprobs(plan.top_logprobs);
  request.set_priority(plan.priority);
  request.set_score_from(static_cast<int32_t>(plan.context.size()));
  request.set_score_only(true);
  return request;
}

}  // namespace baton
