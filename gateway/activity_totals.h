// What a gateway has done up to a moment, for one model or for several: counts that only grow. What it did in a while
// is a difference. The meaning of each: Activity in protos/baton/v1/inference.proto.
#pragma once

#include <cstdint>

#include "baton/v1/inference.pb.h"
#include "common/observe/histogram_counts.h"

namespace baton {

struct ActivityTotals {
  int64_t completed = 0;
  int64_t cancelled = 0;
  int64_t refused = 0;
  int64_t rejected = 0;
  int64_t failed = 0;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  int64_t resumes = 0;
  int64_t retries = 0;
  int64_t worker_pauses = 0;
  HistogramCounts time_to_first_token;
  HistogramCounts inter_token;

  void Add(const ActivityTotals& other);
  // `earlier`: of the same models.
  void Subtract(const ActivityTotals& earlier);
  // `seconds`: how long that took.
  void Describe(double seconds, v1::Activity* activity) const;
};

}  // namespace baton
