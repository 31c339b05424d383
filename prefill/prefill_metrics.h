// The prefill worker's series (docs/metrics.md), resolved once.
#pragma once

#include <string>

#include "common/observe/metrics.h"
#include "common/state/memory_budget.h"
#include "prefill/prefix_cache.h"

namespace baton {

struct PrefillMetrics {
  PrefillMetrics(Metrics* metrics, const std::string& model);

  void SetState(const MemoryBudget& budget);
  void SetPrefixCache(const PrefixCache& cache);
  // A prompt has started, with this much of it cached.
  void CountPrefix(const PrefixCache& cache, int64_t cached_tokens);

  prometheus::Gauge& requests_waiting;
  prometheus::Gauge& requests_running;
  prometheus::Gauge& queued_tokens;
  prometheus::Counter& prompt_tokens_computed;
  prometheus::Counter& prompt_tokens_cached;
  prometheus::Counter& prefix_cache_hits;
  prometheus::Counter& prefix_cache_misses;
  prometheus::Counter& prefix_cache_evictions;
  prometheus::Gauge& prefix_cache_bytes;
  prometheus::Gauge& prefix_cache_blocks;
  prometheus::Gauge& prefix_cache_resume_points;
  prometheus::Counter& generation_tokens;
  prometheus::Histogram& queue_seconds;
  prometheus::Histogram& prefill_seconds;

  prometheus::Histogram& handoff_total_seconds;
  prometheus::Histogram& handoff_exposed_seconds;
  prometheus::Counter& handoff_bytes_total;
  prometheus::Counter& handoff_shared_bytes_total;
  prometheus::Histogram& handoff_bytes;
  prometheus::Counter& handoff_cancelled;
  prometheus::Counter& handoff_unreachable;
  prometheus::Counter& handoff_refused;
  prometheus::Counter& handoff_corrupt;

  prometheus::Histogram& step_seconds;
  prometheus::Histogram& step_tokens;
  prometheus::Histogram& step_sequences;

  prometheus::Gauge& state_bytes_used;
  prometheus::Gauge& state_bytes_limit;
  prometheus::Gauge& state_bytes_idle;
  prometheus::Gauge& state_usage_ratio;

  prometheus::Counter& finished_done;
  prometheus::Counter& finished_cancelled;
  prometheus::Counter& finished_refused;
  prometheus::Counter& finished_failed;

 private:
  int64_t evictions_ = 0;  // counted so far
};

}  // namespace baton
