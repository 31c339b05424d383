// The series of kept sessions (docs/metrics.md), resolved once.
#pragma once

#include <string>

#include <prometheus/counter.h>
#include <prometheus/gauge.h>

#include "common/observe/metrics.h"

namespace baton {

struct SessionMetrics {
  SessionMetrics(Metrics* metrics, const std::string& model);
  SessionMetrics(const SessionMetrics&) = delete;

  prometheus::Gauge& memory_sessions;
  prometheus::Gauge& directory_sessions;
  prometheus::Gauge& memory_bytes;
  prometheus::Gauge& directory_bytes;
  prometheus::Counter& kept;
  prometheus::Counter& not_kept;
  prometheus::Counter& opened;
  prometheus::Counter& not_found;
  prometheus::Counter& read_from_memory;
  prometheus::Counter& read_from_directory;
  prometheus::Counter& expired;
  prometheus::Counter& evicted;
  prometheus::Counter& written;
  prometheus::Counter& write_failed;
};

}  // namespace baton
