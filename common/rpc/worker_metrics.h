// What prefill and decode workers measure alike (docs/metrics.md), resolved once. Each adds what only it has:
//
//   struct DecodeMetrics : WorkerMetrics { ... };
//   metrics.requests_running.Set(3);
#pragma once

#include <string>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/observe/metrics.h"
#include "common/state/memory_budget.h"

namespace baton {

struct WorkerMetrics {
  // `budget` must outlive it.
  WorkerMetrics(Metrics* metrics, const std::string& model, const MemoryBudget* budget);
  WorkerMetrics(const WorkerMetrics&) = delete;

  // Call after state memory was reserved or freed, on any thread.
  void UpdateStateBytes();

  prometheus::Gauge& requests_waiting;
  prometheus::Gauge& requests_running;
  prometheus::Counter& prompt_tokens_computed;
  prometheus::Counter& prompt_tokens_cached;
  prometheus::Counter& generation_tokens;
  prometheus::Counter& handoff_bytes_total;
  prometheus::Counter& handoff_cancelled;
  prometheus::Counter& handoff_unreachable;
  prometheus::Counter& handoff_refused;
  prometheus::Counter& handoff_corrupt;
  prometheus::Histogram& step_seconds;
  prometheus::Histogram& step_tokens;
  prometheus::Histogram& step_sequences;
  prometheus::Counter& finished_done;
  prometheus::Counter& finished_cancelled;
  prometheus::Counter& finished_refused;
  prometheus::Counter& finished_failed;

 protected:
  static prometheus::Counter& PromptTokens(Metrics* metrics, const std::string& model, const std::string& source);
  static prometheus::Counter& Finished(Metrics* metrics, const std::string& model, const std::string& reason);

 private:
  const MemoryBudget* const budget_;
  // So that an older figure never overwrites a newer one.
  absl::Mutex state_bytes_mutex_;
  prometheus::Gauge& state_bytes_used_ ABSL_GUARDED_BY(state_bytes_mutex_);
  prometheus::Gauge& state_bytes_idle_ ABSL_GUARDED_BY(state_bytes_mutex_);
  prometheus::Gauge& state_usage_ratio_ ABSL_GUARDED_BY(state_bytes_mutex_);
};

}  // namespace baton
