// The series of state checkpoints (docs/metrics.md), resolved once: copies sent to standbys, and those kept for others.
#pragma once

#include <string>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>

#include "common/observe/metrics.h"

namespace baton {

struct CheckpointMetrics {
  CheckpointMetrics(Metrics* metrics, const std::string& model);
  CheckpointMetrics(const CheckpointMetrics&) = delete;

  prometheus::Counter& committed;
  prometheus::Counter& failed;
  prometheus::Counter& skipped;
  prometheus::Counter& sent_bytes;
  prometheus::Gauge& held;
  prometheus::Gauge& held_bytes;
  prometheus::Counter& received;
  prometheus::Counter& refused;
  prometheus::Counter& resumed;
  prometheus::Counter& dropped;
  prometheus::Counter& expired;
  prometheus::Counter& evicted;
};

}  // namespace baton
