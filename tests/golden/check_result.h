// One comparison: what, how far apart, how far apart it may be.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "tests/golden/bounds.h"

namespace baton {

struct CheckResult {
  std::string name;
  int64_t values = 0;  // compared
  double max_abs = 0;
  double rms = 0;
  double relative_rms = 0;
  Bound bound;
  bool passed = false;
};

// Accumulates the differences of one check, which may span several tensors.
class Difference {
 public:
  // A NaN on either side counts as an infinite difference.
  void Add(absl::Span<const float> got, absl::Span<const float> want);
  int64_t values() const { return values_; }
  CheckResult Finish(std::string name, const Bound& bound) const;

 private:
  int64_t values_ = 0;
  double max_abs_ = 0;
  double squares_ = 0;
  double reference_squares_ = 0;
};

// A check that counts disagreements, of which none is allowed.
CheckResult CountCheck(std::string name, int64_t values, int64_t wrong);

bool AllPassed(const std::vector<CheckResult>& results);

}  // namespace baton
