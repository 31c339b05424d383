// Percentiles of all samples (nothing is bucketed), by nearest rank: the smallest sample that at least p % of the
// samples do not exceed. So every figure is one that was measured.
#pragma once

#include <cstdint>
#include <vector>

namespace baton {

struct LatencySummary {
  int64_t count = 0;
  // NaN when count is 0.
  double mean;
  double p50;
  double p90;
  double p95;
  double p99;
  double max;
};

LatencySummary Summarize(std::vector<double> samples);

// `sorted` ascending and not empty; percent in (0, 100].
double Percentile(const std::vector<double>& sorted, double percent);

}  // namespace baton
