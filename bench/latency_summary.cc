#include "bench/latency_summary.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "common/base/status_macros.h"

namespace baton {

double Percentile(const std::vector<double>& sorted, double percent) {
  BATON_CHECK(!sorted.empty() && percent > 0 && percent <= 100);
  const auto count = static_cast<double>(sorted.size());
  // The product of exact numbers may come out a little above an integer; that must not skip a rank.
  const auto rank = static_cast<int64_t>(std::ceil(percent * count / 100 - 1e-9));
  return sorted[std::clamp<int64_t>(rank, 1, static_cast<int64_t>(sorted.size())) - 1];
}

LatencySummary Summarize(std::vector<double> samples) {
  LatencySummary out;
  out.count = static_cast<int64_t>(samples.size());
  if (samples.empty()) {
    out.mean = out.p50 = out.p90 = out.p95 = out.p99 = out.max = std::numeric_limits<double>::quiet_NaN();
    return out;
  }
  std::sort(samples.begin(), samples.end());
  out.mean = std::accumulate(samples.begin(), samples.end(), 0.0) / static_cast<double>(samples.size());
  out.p50 = Percentile(samples, 50);
  out.p90 = Percentile(samples, 90);
  out.p95 = Percentile(samples, 95);
  out.p99 = Percentile(samples, 99);
  out.max = samples.back();
  return out;
}

}  // namespace baton
