#include "gateway/worker_requests.h"

#include <algorithm>
#include <memory>
#include <vector>

#include "common/state/prefix_chain.h"

namespace baton {
namespace {

using worker::v1::DecodeRequest;
using worker::v1::PrefillRequest;

// What both workers are told alike.
template <typename Request>
Request RequestOf(const GenerationPlan& plan, const Continuation* continuation) {
  Request request;
  request.set_request_id(plan.request_id);
  request.set_fingerprint(plan.model->fingerprint);
  request.mutable_tokens()->Add(plan.prompt.begin(), plan.prompt.end());
  *request.mutable_sampling() = plan.sampling;
  *request.mutable_stopping() = plan.stopping;
  request.set_logprobs(plan.needs_logprobs());
  request.set_top_logprobs(plan.top_logprobs);
  request.set_priority(plan.priority);
  if (continuation == nullptr) return request;
  const absl::Span<const int32_t> generated = continuation->generated;
  request.mutable_tokens()->Add(generated.begin(), generated.end());
  request.set_generated_tokens(static_cast<int32_t>(generated.size()));
  request.mutable_sampling()->set_seed(plan.seed(continuation->choice));
  request.mutable_sampling()->clear_further_seeds();
  return request;
}

// Of the blocks that a prompt whose logits are wanted from token `limit` on may go on from.
template <typename Plan>
std::shared_ptr<const std::vector<uint64_t>> PrefixesOf(const Plan& plan, const std::vector<int32_t>& prompt,
                                                        size_t limit) {
  auto hashes = std::make_shared<std::vector<uint64_t>>();
  const auto tokens = absl::MakeConstSpan(prompt).first(std::min(limit, prompt.size()));
  for (const PrefixHash& hash : PrefixChain(plan.model->fingerprint, /*adapter=*/"", plan.cache_salt, tokens)) {
    hashes->push_back(hash.Short());
  }
  return hashes;
}

}  // namespace

bool NeedsDecode(const GenerationPlan& plan, const Continuation* continuation) {
  if (continuation == nullptr) return plan.needs_decode();
  const auto generated = static_cast<int32_t>(continuation->generated.size());
  return plan.stopping.max_new_tokens() - generated > 1 || plan.keep.has_value();
}

Demand DemandOf(const GenerationPlan& plan, const Continuation* continuation) {
  Demand demand;
  demand.fingerprint = plan.model->fingerprint;
  demand.model = plan.model->name;
  const int64_t state_tokens = static_cast<int64_t>(plan.prompt.size()) + plan.stopping.max_new_tokens();
  demand.state_tokens = NeedsDecode(plan, continuation) ? state_tokens : 0;
  if (continuation != nullptr) {
    std::vector<int32_t> tokens = plan.prompt;
    tokens.insert(tokens.end(), continuation->generated.begin(), continuation->generated.end());
    demand.prompt_tokens = static_cast<int64_t>(tokens.size());
    demand.prefixes = PrefixesOf(plan, tokens, tokens.size() - 1);
    demand.resumes = true;
    if (continuation->state.has_value()) {
      demand.session_tokens = continuation->state->tokens;
      demand.session_worker = continuation->state->standby;
      demand.may_be_local = demand.session_worker != nullptr && NeedsDecode(plan, continuation);
    }
    return demand;
  }
  demand.prompt_tokens = static_cast<int64_t>(plan.prompt.size());
  if (!plan.prompt_logprobs && !plan.prompt.empty()) {
    demand.prefixes = PrefixesOf(plan, plan.prompt, plan.prompt.size() - 1);
  }
  demand.samples = plan.choices();
  // Nobody scores prompts but prefill workers.
  demand.may_be_local = plan.needs_decode() && !plan.prompt_logprobs;
  demand.session_worker = plan.session_worker;
  demand.session_tokens = plan.session_tokens;
  return demand;
}

Demand DemandOf(const ScorePlan& plan, size_t index) {
  Demand demand;
  demand.fingerprint = plan.model->fingerprint;
  demand.model = plan.model->name;
  demand.prompt_tokens = static_cast<int64_t>(plan.context.size() + plan.continuations[index].size());
  if (!plan.context.empty()) demand.prefixes = PrefixesOf(plan, plan.context, plan.context.size() - 1);
  return demand;
}

DecodeRequest MakeDecodeRequest(const GenerationPlan& plan, const Route& route, const Continuation* continuation) {
  DecodeRequest request = RequestOf<DecodeRequest>(plan, continuation);
  request.set_compute_prompt(route.prompt_place != PromptPlace::kPrefillWorker);
  if (route.prompt_place == PromptPlace::kDecodeWorkerFromSession) {
    *request.mutable_session() = continuation != nullptr ? continuation->state->source.key() : plan.session->key();
  }
  for (const Standby& standby : route.standbys) request.add_standbys(standby.endpoint);
  if (!plan.keep.has_value()) return request;
  *request.mutable_keep() = *plan.keep;
  request.mutable_stop_strings()->Add(plan.stop_strings.begin(), plan.stop_strings.end());
  request.set_include_stop_tokens(plan.include_stop_in_output);
  return request;
}

PrefillRequest MakePrefillRequest(const GenerationPlan& plan, const worker::v1::Reservation* reservation,
                                  const Continuation* continuation) {
  PrefillRequest request = RequestOf<PrefillRequest>(plan, continuation);
  request.set_cache_salt(plan.cache_salt);
  // All of the prompt's scores come before the first token.
  if (continuation == nullptr && plan.prompt_logprobs && plan.prompt.size() > 1) request.set_score_from(1);
  request.set_keep_state(plan.keep.has_value());
  if (plan.session.has_value()) *request.mutable_session() = *plan.session;
  if (continuation != nullptr && continuation->state.has_value())
    *request.mutable_session() = continuation->state->source;
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
  request.set_cache_salt(plan.cache_salt);
  return request;
}

}  // namespace baton
