#include "gateway/service_rate.h"

#include <algorithm>
#include <cmath>

namespace baton {
namespace {

constexpr double kFadeSeconds = 10;
constexpr double kEnoughSeconds = 0.5;
// Longer waits are all the same to those who wait.
constexpr double kLongestSeconds = 3600;

}  // namespace

void ServiceRate::BeginWaiting(Clock::time_point now) {
  if (waiting_) return;
  waiting_ = true;
  last_ = now;
}

void ServiceRate::Served(int64_t work, Clock::time_point now) {
  if (!waiting_) return;
  const double elapsed = std::max(0.0, SecondsBetween(last_, now));
  const double kept = std::exp(-elapsed / kFadeSeconds);
  last_ = now;
  work_ = work_ * kept + static_cast<double>(work);
  seconds_ = seconds_ * kept + elapsed;
}

absl::optional<Clock::duration> ServiceRate::TimeFor(int64_t work) const {
  if (seconds_ < kEnoughSeconds || work_ <= 0) return absl::nullopt;
  const double seconds = std::min(kLongestSeconds, static_cast<double>(work) * seconds_ / work_);
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

}  // namespace baton
