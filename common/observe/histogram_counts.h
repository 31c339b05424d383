// What a Prometheus histogram has counted, as a value: what it counted in a while is a difference of two, what several
// of the same bounds counted is a sum.
//
//   HistogramCounts then(histogram);
//   ...
//   HistogramCounts lately(histogram);
//   lately.Subtract(then);
//   double p99 = lately.Quantile(0.99);
#pragma once

#include <cstdint>
#include <vector>

#include <prometheus/histogram.h>

namespace baton {

class HistogramCounts {
 public:
  // Nothing, of any bounds.
  HistogramCounts() = default;
  explicit HistogramCounts(const prometheus::Histogram& histogram);

  // `other` is of the same bounds, or holds nothing.
  void Add(const HistogramCounts& other);
  // `earlier`: the same histogram's, or a sum's of the same ones.
  void Subtract(const HistogramCounts& earlier);

  uint64_t count() const { return buckets_.empty() ? 0 : buckets_.back().cumulative; }
  // As Prometheus's histogram_quantile: evenly spread within a bucket, from 0 on within the first; the last finite
  // bound for what is beyond it. 0 when nothing was counted. `rank` in [0, 1].
  double Quantile(double rank) const;

 private:
  struct Bucket {
    double upper_bound = 0;
    // In this bucket and all before it.
    uint64_t cumulative = 0;
  };
  // By bound; the last one's is infinite.
  std::vector<Bucket> buckets_;
};

}  // namespace baton
