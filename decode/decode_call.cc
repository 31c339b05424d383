#include "decode/decode_call.h"

#include <utility>

#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "common/observe/log.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

absl::string_view OutcomeName(DecodeOutcome outcome) {
  switch (outcome) {
    case DecodeOutcome::kStop:
      return "stop";
    case DecodeOutcome::kLength:
      return "length";
    case DecodeOutcome::kCutOff:
      return "cut_off";
    case DecodeOutcome::kCancelled:
      return "cancelled";
    case DecodeOutcome::kRefused:
      return "refused";
    case DecodeOutcome::kFailed:
      return "failed";
    case DecodeOutcome::kLeft:
      return "left";
  }
  return "failed";
}

prometheus::Counter& OutcomeCounter(DecodeOutcome outcome, DecodeMetrics& metrics) {
  switch (outcome) {
    case DecodeOutcome::kStop:
    case DecodeOutcome::kLength:
    case DecodeOutcome::kCutOff:
      return metrics.finished_done;
    case DecodeOutcome::kCancelled:
      return metrics.finished_cancelled;
    case DecodeOutcome::kRefused:
      return metrics.finished_refused;
    case DecodeOutcome::kFailed:
      return metrics.finished_failed;
    case DecodeOutcome::kLeft:
      return metrics.finished_left;
  }
  return metrics.finished_failed;
}

}  // namespace

DecodeOutcome OutcomeOf(worker::v1::DoneReason reason) {
  switch (reason) {
    case worker::v1::LENGTH:
      return DecodeOutcome::kLength;
    case worker::v1::CUT_OFF:
      return DecodeOutcome::kCutOff;
    default:
      return DecodeOutcome::kStop;
  }
}

DecodeCall::DecodeCall(SequenceRequest request, DecodeMetrics* metrics, Span span, const TokenText* vocabulary)
    : request_(std::move(request)),
      metrics_(metrics),
      started_(absl::Now()),
      wishes_(static_cast<size_t>(request_.samples())),
      sample_end_(&request_, vocabulary),
      span_(std::move(span)),
      wait_span_(span_.Child(request_.compute_prompt ? "prefill" : "await state")) {}

void DecodeCall::CountSample(DecodeOutcome outcome) {
  counted_samples_.fetch_add(1, std::memory_order_relaxed);
  OutcomeCounter(outcome, *metrics_).Increment();
}

void DecodeCall::PromptComputed(int64_t cached_tokens) {
  wait_span_.Set("baton.computed_tokens", static_cast<int64_t>(request_.tokens.size()) - cached_tokens);
  wait_span_.Set("baton.cached_tokens", cached_tokens);
  wait_span_.End();
  decode_span_ = span_.Child("decode");
}

void DecodeCall::StateReceived(int64_t bytes) {
  wait_span_.End();
  decode_span_ = span_.Child("decode");
  state_bytes_.store(bytes, std::memory_order_relaxed);
  handoff_wait_seconds_.store(absl::ToDoubleSeconds(absl::Now() - started_), std::memory_order_relaxed);
  metrics_->prompt_tokens_transferred.Increment(static_cast<double>(request_.tokens.size()));
}

bool DecodeCall::Finish(DecodeOutcome outcome, const absl::Status& status) {
  if (over_.exchange(true, std::memory_order_acq_rel)) return false;
  CountAndLog(outcome, status);
  EndSpans(outcome, status);
  events_->Finish(ToGrpcStatus(status));
  return true;
}

void DecodeCall::EndSpans(DecodeOutcome outcome, const absl::Status& status) {
  if (!span_) return;
  // Ends the others too, which may be set at this moment.
  span_.Set("baton.outcome", OutcomeName(outcome));
  span_.Set("gen_ai.usage.output_tokens", tokens_.load(std::memory_order_relaxed));
  span_.Set("rpc.grpc.status_code", static_cast<int64_t>(status.code()));
  if (!status.ok() && outcome != DecodeOutcome::kCancelled) span_.Fail(status.message());
  span_.End();
}

void DecodeCall::CountAndLog(DecodeOutcome outcome, const absl::Status& status) {
  OutcomeCounter(outcome, *metrics_).Increment(request_.samples() - counted_samples_.load(std::memory_order_relaxed));
  const bool failed = outcome == DecodeOutcome::kFailed;
  Log line(failed ? Severity::kWarning : Severity::kInfo, "decode_done");
  line.With("request_id", request_.request_id)
      .With("outcome", OutcomeName(outcome))
      .With("prompt_tokens", static_cast<int64_t>(request_.tokens.size()) - request_.generated_tokens)
      .With("continued_tokens", request_.generated_tokens)
      .With("samples", request_.samples())
      .With("tokens", tokens_.load(std::memory_order_relaxed))
      .With("state_bytes", state_bytes_.load(std::memory_order_relaxed))
      .With("handoff_wait_seconds", handoff_wait_seconds())
      .With("local_prefill", request_.compute_prompt)
      .With("seconds", absl::ToDoubleSeconds(absl::Now() - started_));
  if (failed || outcome == DecodeOutcome::kRefused) line.With("error", status);
}

}  // namespace baton
