// For log lines that a peer can bring about as often as it likes: one in a while is enough.
//
//   LogLimit limit_;                                          // one a second
//   if (limit_.Due()) Log(Severity::kWarning, "peer_refused")...
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace baton {

class LogLimit {
 public:
  // One line in each such period.
  explicit LogLimit(absl::Duration period = absl::Seconds(1)) : period_ns_(absl::ToInt64Nanoseconds(period)) {}

  // True for one caller in each period. Thread-safe.
  bool Due() {
    const int64_t period = absl::GetCurrentTimeNanos() / period_ns_;
    return last_.exchange(period) != period;
  }

 private:
  const int64_t period_ns_;
  std::atomic<int64_t> last_{0};
};

}  // namespace baton
