// Keeps new requests from a worker that keeps failing them. After so many failures in a row the circuit opens: no
// request goes there for a pause. Then one does, as a probe: when it works, the circuit closes; when it fails, the
// pause is doubled. A worker that was restarted begins anew.
//
//   if (breaker.Allows(now)) { breaker.Begin(); ... }      // a request goes there
//   breaker.Worked();                                      // it did its part
//   if (breaker.Failed(now)) ...                           // it did not; true: the circuit has opened just now
//   breaker.Abandoned();                                   // a probe ended, and we know no more than before
//
// Not thread-safe: the router's lock guards it.
#pragma once

#include <algorithm>
#include <chrono>

#include "gateway/timers.h"

namespace baton {

struct CircuitBreakerOptions {
  // In a row. 0: the circuit never opens.
  int failures = 5;
  Clock::duration first_pause = std::chrono::seconds(1);
  Clock::duration largest_pause = std::chrono::seconds(30);
};

class CircuitBreaker {
 public:
  explicit CircuitBreaker(const CircuitBreakerOptions& options) : options_(options) {}

  bool Allows(Clock::time_point now) const { return !open_ || (now >= until_ && !probing_); }
  bool open() const { return open_; }
  // How long nothing goes there yet; zero of an open circuit: a probe may, or does.
  Clock::duration PauseLeft(Clock::time_point now) const {
    return open_ ? std::max(until_ - now, Clock::duration::zero()) : Clock::duration::zero();
  }
  // A request goes there. True: it is a probe.
  bool Begin() {
    if (open_) probing_ = true;
    return open_;
  }
  void Worked() { *this = CircuitBreaker(options_); }
  bool Failed(Clock::time_point now) {
    if (open_) {
      // What was sent there before the circuit opened tells nothing new.
      if (!probing_ && now < until_) return false;
      probing_ = false;
      pause_ = std::min(2 * pause_, options_.largest_pause);
      until_ = now + pause_;
      return false;
    }
    if (options_.failures == 0 || ++failures_ < options_.failures) return false;
    open_ = true;
    pause_ = options_.first_pause;
    until_ = now + pause_;
    return true;
  }
  void Abandoned() { probing_ = false; }

 private:
  CircuitBreakerOptions options_;
  int failures_ = 0;
  bool open_ = false;
  bool probing_ = false;
  Clock::duration pause_{};
  Clock::time_point until_{};
};

}  // namespace baton
