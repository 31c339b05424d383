// How fast waiting requests are served, in tokens of work per second, while there are any: what the wait of one more
// can be predicted from. Old measurements fade with a time constant of ten seconds.
//
//   ServiceRate rate;
//   rate.BeginWaiting(now);                      // the queue is no longer empty
//   rate.Served(512, now);
//   absl::optional<Clock::duration> wait = rate.TimeFor(4096);      // nothing until half a second was observed
//
// Not thread-safe.
#pragma once

#include <cstdint>

#include "absl/types/optional.h"
#include "gateway/timers.h"

namespace baton {

class ServiceRate {
 public:
  // Time from here on counts. Again while it does: no effect.
  void BeginWaiting(Clock::time_point now);
  // The queue is empty: time does not count until BeginWaiting.
  void EndWaiting() { waiting_ = false; }
  void Served(int64_t work, Clock::time_point now);
  // Absent while too little is known.
  absl::optional<Clock::duration> TimeFor(int64_t work) const;

 private:
  bool waiting_ = false;
  Clock::time_point last_;
  // Both fade alike.
  double work_ = 0;
  double seconds_ = 0;
};

}  // namespace baton
