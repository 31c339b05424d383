#include "prefill/prefill_metrics.h"

namespace baton {
namespace {

constexpr char kHandoffSeconds[] = "baton_handoff_seconds";
constexpr char kHandoffSecondsHelp[] =
    "total: first byte sent to verified by the receiver; exposed: last chunk computed to verified.";
constexpr char kHandoffFailures[] = "baton_handoff_failures_total";
constexpr char kHandoffFailuresHelp[] = "Handoffs that did not complete, by reason.";
constexpr char kPrefixLookups[] = "baton_prefix_cache_lookups_total";
constexpr char kPrefixLookupsHelp[] = "Prompts that began with something cached, and those that did not.";
constexpr char kFinished[] = "baton_sequences_finished_total";
constexpr char kFinishedHelp[] = "Sequences that left this worker, by how they ended.";

}  // namespace

PrefillMetrics::PrefillMetrics(Metrics* metrics, const std::string& model)
    : requests_waiting(
          metrics->AddGauge("baton_requests_waiting", "Queued, not yet being worked on.", {{"model", model}})),
      requests_running(metrics->AddGauge("baton_requests_running", "Being worked on.", {{"model", model}})),
      queued_tokens(
          metrics->AddGauge("baton_queued_tokens", "Prompt tokens accepted and not yet computed.", {{"model", model}})),
      prompt_tokens_computed(metrics->AddCounter("baton_prompt_tokens_total", "Prompt tokens by where they came from.",
                                                 {{"model", model}, {"source", "computed"}})),
      prompt_tokens_cached(metrics->AddCounter("baton_prompt_tokens_total", "Prompt tokens by where they came from.",
                                               {{"model", model}, {"source", "cached"}})),
      prefix_cache_hits(metrics->AddCounter(kPrefixLookups, kPrefixLookupsHelp, {{"model", model}, {"result", "hit"}})),
      prefix_cache_misses(
          metrics->AddCounter(kPrefixLookups, kPrefixLookupsHelp, {{"model", model}, {"result", "miss"}})),
      prefix_cache_evictions(metrics->AddCounter("baton_prefix_cache_evictions_total",
                                                 "Blocks or snapshots given up for others.", {{"model", model}})),
      prefix_cache_bytes(metrics->AddGauge("baton_prefix_cache_bytes",
                                           "State memory held by the prefix cache, alone or with running prompts.",
                                           {{"model", model}})),
      prefix_cache_blocks(
          metrics->AddGauge("baton_prefix_cache_blocks", "Blocks of 64 tokens that are known.", {{"model", model}})),
      prefix_cache_resume_points(metrics->AddGauge("baton_prefix_cache_resume_points",
                                                   "Beginnings of prompts that a prompt can go on from.",
                                                   {{"model", model}})),
      generation_tokens(
          metrics->AddCounter("baton_generation_tokens_total", "Tokens sampled here.", {{"model", model}})),
      queue_seconds(metrics->AddHistogram("baton_queue_seconds", "Waiting before work starts here.",
                                          StepSecondsBuckets(), {{"model", model}})),
      prefill_seconds(metrics->AddHistogram("baton_prefill_seconds", "First chunk started to last chunk done.",
                                            StepSecondsBuckets(), {{"model", model}})),
      handoff_total_seconds(metrics->AddHistogram(kHandoffSeconds, kHandoffSecondsHelp, StepSecondsBuckets(),
                                                  {{"model", model}, {"phase", "total"}})),
      handoff_exposed_seconds(metrics->AddHistogram(kHandoffSeconds, kHandoffSecondsHelp, StepSecondsBuckets(),
                                                    {{"model", model}, {"phase", "exposed"}})),
      handoff_bytes_total(metrics->AddCounter("baton_handoff_bytes_total", "State bytes sent.", {{"model", model}})),
      handoff_shared_bytes_total(metrics->AddCounter("baton_handoff_shared_bytes_total",
                                                     "State bytes sent through shared memory.", {{"model", model}})),
      handoff_bytes(metrics->AddHistogram("baton_handoff_bytes", "State bytes of one handoff.", BytesBuckets(),
                                          {{"model", model}})),
      handoff_cancelled(
          metrics->AddCounter(kHandoffFailures, kHandoffFailuresHelp, {{"model", model}, {"reason", "cancelled"}})),
      handoff_unreachable(
          metrics->AddCounter(kHandoffFailures, kHandoffFailuresHelp, {{"model", model}, {"reason", "unreachable"}})),
      handoff_refused(
          metrics->AddCounter(kHandoffFailures, kHandoffFailuresHelp, {{"model", model}, {"reason", "refused"}})),
      handoff_corrupt(
          metrics->AddCounter(kHandoffFailures, kHandoffFailuresHelp, {{"model", model}, {"reason", "corrupt"}})),
      step_seconds(
          metrics->AddHistogram("baton_step_seconds", "One engine step.", StepSecondsBuckets(), {{"model", model}})),
      step_tokens(
          metrics->AddHistogram("baton_step_tokens", "Tokens in one step.", CountBuckets(), {{"model", model}})),
      step_sequences(
          metrics->AddHistogram("baton_step_sequences", "Sequences in one step.", CountBuckets(), {{"model", model}})),
      state_bytes_used(metrics->AddGauge("baton_state_bytes_used", "Reserved state memory.", {{"model", model}})),
      state_bytes_limit(metrics->AddGauge("baton_state_bytes_limit", "Budget of state memory.", {{"model", model}})),
      state_bytes_idle(metrics->AddGauge("baton_state_bytes_idle", "Memory of released pages, kept to be used again.",
                                         {{"model", model}})),
      state_usage_ratio(
          metrics->AddGauge("baton_state_usage_ratio", "Used / total state memory, 0 to 1.", {{"model", model}})),
      finished_done(metrics->AddCounter(kFinished, kFinishedHelp, {{"model", model}, {"reason", "done"}})),
      finished_cancelled(metrics->AddCounter(kFinished, kFinishedHelp, {{"model", model}, {"reason", "cancelled"}})),
      finished_refused(metrics->AddCounter(kFinished, kFinishedHelp, {{"model", model}, {"reason", "refused"}})),
      finished_failed(metrics->AddCounter(kFinished, kFinishedHelp, {{"model", model}, {"reason", "failed"}})) {}

void PrefillMetrics::SetState(const MemoryBudget& budget) {
  const int64_t used = budget.used();
  const int64_t total = budget.total();
  state_bytes_used.Set(static_cast<double>(used));
  state_bytes_limit.Set(static_cast<double>(total));
  state_bytes_idle.Set(static_cast<double>(budget.idle_bytes()));
  state_usage_ratio.Set(total > 0 ? static_cast<double>(used) / static_cast<double>(total) : 0);
}

void PrefillMetrics::SetPrefixCache(const PrefixCache& cache) {
  prefix_cache_bytes.Set(static_cast<double>(cache.bytes()));
  prefix_cache_blocks.Set(static_cast<double>(cache.blocks()));
  prefix_cache_resume_points.Set(static_cast<double>(cache.resume_points()));
  prefix_cache_evictions.Increment(static_cast<double>(cache.evictions() - evictions_));
  evictions_ = cache.evictions();
}

void PrefillMetrics::CountPrefix(const PrefixCache& cache, int64_t cached_tokens) {
  if (!cache.enabled()) return;
  (cached_tokens > 0 ? prefix_cache_hits : prefix_cache_misses).Increment();
  prompt_tokens_cached.Increment(static_cast<double>(cached_tokens));
}

}  // namespace baton
