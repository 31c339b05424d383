#include "gateway/request_record.h"

#include "common/observe/log.h"
#include "common/rpc/status_mapping.h"

namespace baton {

void RequestRecord::Finish(Outcome outcome, const absl::Status& status) {
  const double seconds = Elapsed();
  metrics->CountRequest(method, outcome, seconds);
  const bool worked_on = attempts > 0 || output_tokens > 0;
  const int64_t used_prompt = worked_on ? prompt_tokens : 0;
  if (client != nullptr) client->metrics().CountRequest(outcome, used_prompt, output_tokens);
  if (pass != nullptr) pass->Finish(used_prompt + output_tokens);
  EndSpan(outcome, status);
  // Anybody can send these: they are counted, and logged now and then (authenticator.cc).
  if (outcome == Outcome::kUnauthenticated) return;
  const bool ours = outcome == Outcome::kInternal || outcome == Outcome::kDataLoss;
  Log log(ours ? Severity::kError : Severity::kInfo, "request");
  if (!request_id.empty()) log.With("request_id", request_id);
  if (span && span.trace()->sampled()) log.With("trace_id", ToHex(span.trace()->trace_id()));
  if (client != nullptr) log.With("client", client->name());
  log.With("method", MethodName(method)).With("model", model).With("outcome", OutcomeName(outcome));
  if (prompt_tokens > 0) log.With("prompt_tokens", prompt_tokens);
  if (output_tokens > 0) log.With("output_tokens", output_tokens);
  if (choices > 1) log.With("choices", choices);
  if (queue_seconds > 0) log.With("queue_ms", 1000 * queue_seconds);
  if (time_to_first_token >= 0) log.With("ttft_ms", 1000 * time_to_first_token);
  if (attempts > 1) log.With("attempts", attempts);
  if (resumes > 0) log.With("resumes", resumes);
  if (hedge != nullptr) log.With("hedge", hedge);
  log.With("duration_ms", 1000 * seconds);
  const std::string reason = ErrorReason(status);
  if (!reason.empty()) log.With("reason", reason);
  // The messages of INVALID_ARGUMENT may quote the request; those of our own making never do.
  if (ours) log.With("error", status);
}

void RequestRecord::EndSpan(Outcome outcome, const absl::Status& status) const {
  if (!span) return;
  const char* const name = OutcomeName(outcome);
  span.Set("gen_ai.request.model", model);
  if (client != nullptr) span.Set("enduser.id", client->name());
  if (prompt_tokens > 0) span.Set("gen_ai.usage.input_tokens", prompt_tokens);
  if (cached_tokens > 0) span.Set("gen_ai.usage.cache_read.input_tokens", cached_tokens);
  if (output_tokens > 0) span.Set("gen_ai.usage.output_tokens", output_tokens);
  if (status.ok() && outcome != Outcome::kOk) span.SetList("gen_ai.response.finish_reasons", name);
  if (choices > 1) span.Set("baton.choices", choices);
  if (attempts > 0) span.Set("baton.attempts", attempts);
  if (resumes > 0) span.Set("baton.resumes", resumes);
  if (hedge != nullptr) span.Set("baton.hedge_result", hedge);
  span.Set("baton.outcome", name);
  span.Set("rpc.grpc.status_code", static_cast<int64_t>(status.code()));
  if (!status.ok()) {
    const std::string reason = ErrorReason(status);
    if (!reason.empty()) span.Set("error.type", reason);
    // The messages of INVALID_ARGUMENT may quote the request.
    span.Fail(absl::IsInvalidArgument(status) ? "invalid request" : status.message());
  }
  span.End();
}

}  // namespace baton
