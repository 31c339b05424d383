// Latencies in the figures that benchmarks write.
#pragma once

#include <nlohmann/json.hpp>

#include "bench/latency_summary.h"

namespace baton {

// In the unit of the samples. Figures of no samples are null, as JSON has no NaN.
inline nlohmann::ordered_json ToJson(const LatencySummary& summary) {
  return {{"count", summary.count}, {"mean", summary.mean}, {"p50", summary.p50}, {"p90", summary.p90},
          {"p95", summary.p95},     {"p99", summary.p99},   {"max", summary.max}};
}

}  // namespace baton
