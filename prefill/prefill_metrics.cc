#include "prefill/prefill_metrics.h"

namespace baton {
namespace {

constexpr char kHandoffSeconds[] = "baton_handoff_seconds";
constexpr char kHandoffSecondsHelp[] =
    "total: first byte sent to verified by the receiver; exposed: last chunk computed to verified.";
constexpr char kPrefixLookups[] = "baton_prefix_cache_lookups_total";
constexpr char kPrefixLookupsHelp[] = "Prompts that began with something cached, and those that did not.";

}  // namespace

PrefillMetrics::PrefillMetrics(Metrics* metrics, const std::string& model, const MemoryBudget* budget)
    : WorkerMetrics(metrics, model, budget),
      queued_tokens(
          metrics->AddGauge("baton_queued_tokens", "Prompt tokens accepted and not yet computed.", {{"model", model}})),
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
      queue_seconds(metrics->AddHistogram("baton_queue_seconds", "Waiting before work starts here.",
                                          StepSecondsBuckets(), {{"model", model}})),
      prefill_seconds(metrics->AddHistogram("baton_prefill_seconds", "First chunk started to last chunk done.",
                                            StepSecondsBuckets(), {{"model", model}})),
      handoff_total_seconds(metrics->AddHistogram(kHandoffSeconds, kHandoffSecondsHelp, StepSecondsBuckets(),
                                                  {{"model", model}, {"phase", "total"}})),
      handoff_exposed_seconds(metrics->AddHistogram(kHandoffSeconds, kHandoffSecondsHelp, StepSecondsBuckets(),
                                                    {{"model", model}, {"phase", "exposed"}})),
      handoff_shared_bytes_total(metrics->AddCounter("baton_handoff_shared_bytes_total",
                                                     "State bytes sent through shared memory.", {{"model", model}})),
      handoff_bytes(metrics->AddHistogram("baton_handoff_bytes", "State bytes of one handoff.", BytesBuckets(),
                                          {{"model", model}})) {}

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
