// The prefill worker's metrics (docs/metrics.md), resolved once.
#pragma once

#include <cstdint>
#include <string>

#include "common/rpc/worker_metrics.h"
#include "prefill/prefix_cache.h"

namespace baton {

struct PrefillMetrics : WorkerMetrics {
  // `budget` must outlive it.
  PrefillMetrics(Metrics* metrics, const std::string& model, const MemoryBudget* budget);

  void SetPrefixCache(const PrefixCache& cache);
  // A prompt has started, with this much of it cached.
  void CountPrefix(const PrefixCache& cache, int64_t cached_tokens);

  prometheus::Gauge& queued_tokens;
  prometheus::Counter& prefix_cache_hits;
  prometheus::Counter& prefix_cache_misses;
  prometheus::Counter& prefix_cache_evictions;
  prometheus::Gauge& prefix_cache_bytes;
  prometheus::Gauge& prefix_cache_blocks;
  prometheus::Gauge& prefix_cache_resume_points;
  prometheus::Histogram& queue_seconds;
  prometheus::Histogram& prefill_seconds;
  prometheus::Histogram& handoff_total_seconds;
  prometheus::Histogram& handoff_exposed_seconds;
  prometheus::Counter& handoff_shared_bytes_total;
  prometheus::Histogram& handoff_bytes;

 private:
  int64_t evictions_ = 0;  // counted so far
};

}  // namespace baton
