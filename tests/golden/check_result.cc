#include "tests/golden/check_result.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "common/base/status_macros.h"

namespace baton {

void Difference::Add(absl::Span<const float> got, absl::Span<const float> want) {
  BATON_CHECK(got.size() == want.size());
  for (size_t i = 0; i < got.size(); ++i) {
    double difference = std::abs(double{got[i]} - want[i]);
    if (std::isnan(difference)) difference = std::numeric_limits<double>::infinity();
    max_abs_ = std::max(max_abs_, difference);
    squares_ += difference * difference;
    reference_squares_ += double{want[i]} * want[i];
  }
  values_ += static_cast<int64_t>(got.size());
}

CheckResult Difference::Finish(std::string name, const Bound& bound) const {
  CheckResult result;
  result.name = std::move(name);
  result.values = values_;
  result.max_abs = max_abs_;
  result.rms = values_ == 0 ? 0 : std::sqrt(squares_ / static_cast<double>(values_));
  result.relative_rms = squares_ == 0 ? 0 : std::sqrt(squares_ / reference_squares_);
  result.bound = bound;
  result.passed = values_ > 0 && result.max_abs <= bound.max_abs && result.rms <= bound.rms &&
                  result.relative_rms <= bound.relative_rms;
  return result;
}

CheckResult CountCheck(std::string name, int64_t values, int64_t wrong) {
  CheckResult result;
  result.name = std::move(name);
  result.values = values;
  result.max_abs = static_cast<double>(wrong);
  result.bound.max_abs = 0;
  result.passed = wrong == 0;
  return result;
}

bool AllPassed(const std::vector<CheckResult>& results) {
  return !results.empty() &&
         std::all_of(results.begin(), results.end(), [](const CheckResult& result) { return result.passed; });
}

}  // namespace baton
