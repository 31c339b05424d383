// What a test reads from a process's metrics.
#pragma once

#include <string>

#include "common/observe/metrics.h"

namespace baton {

// The sum over a name's series (histograms: of their counts); 0 when there is none. `label`, `value`: only of those
// with such a label; empty: with any.
inline double MetricSum(const Metrics& metrics, const std::string& name, const std::string& label = "",
                        const std::string& value = "") {
  const bool all = label.empty() && value.empty();
  double sum = 0;
  for (const prometheus::MetricFamily& family : metrics.registry()->Collect()) {
    if (family.name != name) continue;
    for (const prometheus::ClientMetric& metric : family.metric) {
      bool matches = all;
      for (const auto& pair : metric.label) {
        matches = matches || ((label.empty() || pair.name == label) && (value.empty() || pair.value == value));
      }
      if (!matches) continue;
      sum += metric.counter.value + metric.gauge.value + static_cast<double>(metric.histogram.sample_count);
    }
  }
  return sum;
}

}  // namespace baton
