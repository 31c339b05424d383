#include "common/observe/histogram_counts.h"

#include <algorithm>

#include "common/base/status_macros.h"

namespace baton {

HistogramCounts::HistogramCounts(const prometheus::Histogram& histogram) {
  const prometheus::ClientMetric::Histogram collected = histogram.Collect().histogram;
  buckets_.reserve(collected.bucket.size());
  for (const prometheus::ClientMetric::Bucket& bucket : collected.bucket) {
    buckets_.push_back({bucket.upper_bound, bucket.cumulative_count});
  }
}

void HistogramCounts::Add(const HistogramCounts& other) {
  if (other.buckets_.empty()) return;
  if (buckets_.empty()) {
    buckets_ = other.buckets_;
    return;
  }
  BATON_CHECK(buckets_.size() == other.buckets_.size());
  for (size_t i = 0; i < buckets_.size(); ++i) buckets_[i].cumulative += other.buckets_[i].cumulative;
}

void HistogramCounts::Subtract(const HistogramCounts& earlier) {
  if (earlier.buckets_.empty()) return;
  BATON_CHECK(buckets_.size() == earlier.buckets_.size());
  for (size_t i = 0; i < buckets_.size(); ++i) {
    BATON_CHECK(buckets_[i].cumulative >= earlier.buckets_[i].cumulative);
    buckets_[i].cumulative -= earlier.buckets_[i].cumulative;
  }
}

double HistogramCounts::Quantile(double rank) const {
  if (count() == 0 || buckets_.size() < 2) return 0;
  const double wanted = rank * static_cast<double>(count());
  const auto bucket = std::find_if(buckets_.begin(), buckets_.end() - 1,
                                   [&](const Bucket& b) { return static_cast<double>(b.cumulative) >= wanted; });
  if (bucket == buckets_.end() - 1) return (bucket - 1)->upper_bound;
  const bool first = bucket == buckets_.begin();
  const double below = first ? 0 : static_cast<double>((bucket - 1)->cumulative);
  const double lower = first ? 0 : (bucket - 1)->upper_bound;
  const double inside = static_cast<double>(bucket->cumulative) - below;
  if (inside <= 0) return bucket->upper_bound;
  return lower + (bucket->upper_bound - lower) * (wanted - below) / inside;
}

}  // namespace baton
