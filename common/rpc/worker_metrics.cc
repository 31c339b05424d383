#include "common/rpc/worker_metrics.h"

namespace baton {
namespace {

prometheus::Counter& HandoffFailures(Metrics* metrics, const std::string& model, const std::string& reason) {
  return metrics->AddCounter("baton_handoff_failures_total", "Handoffs that did not complete.",
                             {{"model", model}, {"reason", reason}});
}

}  // namespace

prometheus::Counter& WorkerMetrics::PromptTokens(Metrics* metrics, const std::string& model,
                                                 const std::string& source) {
  return metrics->AddCounter("baton_prompt_tokens_total", "Prompt tokens by where they came from.",
                             {{"model", model}, {"source", source}});
}

prometheus::Counter& WorkerMetrics::Finished(Metrics* metrics, const std::string& model, const std::string& reason) {
  return metrics->AddCounter("baton_sequences_finished_total", "Sequences that left this worker, by how they ended.",
                             {{"model", model}, {"reason", reason}});
}

WorkerMetrics::WorkerMetrics(Metrics* metrics, const std::string& model, const MemoryBudget* budget)
    : requests_waiting(metrics->AddGauge("baton_requests_waiting", "Not yet being worked on.", {{"model", model}})),
      requests_running(metrics->AddGauge("baton_requests_running", "Being worked on.", {{"model", model}})),
      prompt_tokens_computed(PromptTokens(metrics, model, "computed")),
      prompt_tokens_cached(PromptTokens(metrics, model, "cached")),
      generation_tokens(
          metrics->AddCounter("baton_generation_tokens_total", "Tokens sampled here.", {{"model", model}})),
      handoff_bytes_total(
          metrics->AddCounter("baton_handoff_bytes_total", "State bytes sent or received.", {{"model", model}})),
      handoff_cancelled(HandoffFailures(metrics, model, "cancelled")),
      handoff_unreachable(HandoffFailures(metrics, model, "unreachable")),
      handoff_refused(HandoffFailures(metrics, model, "refused")),
      handoff_corrupt(HandoffFailures(metrics, model, "corrupt")),
      step_seconds(
          metrics->AddHistogram("baton_step_seconds", "One engine step.", StepSecondsBuckets(), {{"model", model}})),
      step_tokens(
          metrics->AddHistogram("baton_step_tokens", "Tokens in one step.", CountBuckets(), {{"model", model}})),
      step_sequences(
          metrics->AddHistogram("baton_step_sequences", "Sequences in one step.", CountBuckets(), {{"model", model}})),
      finished_done(Finished(metrics, model, "done")),
      finished_cancelled(Finished(metrics, model, "cancelled")),
      finished_refused(Finished(metrics, model, "refused")),
      finished_failed(Finished(metrics, model, "failed")),
      budget_(budget),
      state_bytes_used_(
          metrics->AddGauge("baton_state_bytes_used", "State memory reserved, in bytes.", {{"model", model}})),
      state_bytes_idle_(metrics->AddGauge("baton_state_bytes_idle", "Memory of released pages, kept to be used again.",
                                          {{"model", model}})),
      state_usage_ratio_(metrics->AddGauge("baton_state_usage_ratio", "State memory reserved, as a part of all.",
                                           {{"model", model}})) {
  metrics->AddGauge("baton_state_bytes_limit", "State memory in all, in bytes.", {{"model", model}})
      .Set(static_cast<double>(budget->total()));
  UpdateStateBytes();
}

void WorkerMetrics::UpdateStateBytes() {
  absl::MutexLock lock(&state_bytes_mutex_);
  const double used = static_cast<double>(budget_->used());
  const double total = static_cast<double>(budget_->total());
  state_bytes_used_.Set(used);
  state_bytes_idle_.Set(static_cast<double>(budget_->idle_bytes()));
  state_usage_ratio_.Set(total > 0 ? used / total : 0);
}

}  // namespace baton
