// The decode worker's metrics (docs/metrics.md), resolved once.
#pragma once

#include <string>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include "absl/synchronization/mutex.h"
#include "common/observe/metrics.h"
#include "common/state/memory_budget.h"

namespace baton {

struct DecodeMetrics {
  // `budget` must outlive it.
  DecodeMetrics(Metrics* metrics, const std::string& model, const MemoryBudget* budget);
  DecodeMetrics(const DecodeMetrics&) = delete;

  // Call after state memory was reserved or freed.
  void UpdateStateBytes();

  prometheus::Gauge& requests_waiting;
  prometheus::Gauge& requests_running;
  prometheus::Counter& prompt_tokens_transferred;
  // Of prompts that are computed here, and what kept sessions spared them.
  prometheus::Counter& prompt_tokens_computed;
  prometheus::Counter& prompt_tokens_cached;
  prometheus::Counter& local_prefills;
  prometheus::Counter& generation_tokens;
  prometheus::Counter& handoff_bytes;
  prometheus::Counter& handoff_cancelled;
  prometheus::Counter& handoff_unreachable;
  prometheus::Counter& handoff_refused;
  prometheus::Counter& handoff_corrupt;
  prometheus::Counter& state_spills;
  prometheus::Counter& state_spill_failures;
  prometheus::Gauge& sequences_spilled;
  prometheus::Gauge& spilled_bytes;
  prometheus::Histogram& step_seconds;
  prometheus::Histogram& step_tokens;
  prometheus::Histogram& step_sequences;
  prometheus::Counter& finished_done;
  prometheus::Counter& finished_cancelled;
  prometheus::Counter& finished_refused;
  prometheus::Counter& finished_failed;
  prometheus::Counter& finished_left;

 private:
  const MemoryBudget* const budget_;
  // So that an older figure never overwrites a newer one.
  absl::Mutex state_bytes_mutex_;
  prometheus::Gauge& state_bytes_used_ ABSL_GUARDED_BY(state_bytes_mutex_);
  prometheus::Gauge& state_bytes_idle_ ABSL_GUARDED_BY(state_bytes_mutex_);
  prometheus::Gauge& state_usage_ratio_ ABSL_GUARDED_BY(state_bytes_mutex_);
};

}  // namespace baton
