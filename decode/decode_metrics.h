// The decode worker's metrics (docs/metrics.md), resolved once.
#pragma once

#include <string>

#include "common/rpc/worker_metrics.h"

namespace baton {

struct DecodeMetrics : WorkerMetrics {
  // `budget` must outlive it.
  DecodeMetrics(Metrics* metrics, const std::string& model, const MemoryBudget* budget);

  prometheus::Counter& prompt_tokens_transferred;
  prometheus::Counter& local_prefills;
  prometheus::Counter& state_spills;
  prometheus::Counter& state_spill_failures;
  prometheus::Gauge& sequences_spilled;
  prometheus::Gauge& spilled_bytes;
  prometheus::Counter& finished_left;
};

}  // namespace baton
