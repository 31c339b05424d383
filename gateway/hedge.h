// Hedging (docs/scheduling.md): a request that is late with its first token is tried a second time, on other workers
// and at the same time; whichever gives its first token first goes on. How often is bounded, or an overload would feed
// itself: hedges are at most a share of the requests, a few at once aside.
//
//   HedgeBudget budget(5);              // percent
//   budget.Earn();                      // a request's work begins
//   if (budget.Take()) ...              // one may be hedged
//
// The race itself is a part of the request: generation_hedge.cc.
#pragma once

#include <algorithm>
#include <mutex>

#include "absl/types/optional.h"
#include "gateway/timers.h"

namespace baton {

struct HedgeOptions {
  // A request is late when it has waited so much longer for its first token than its prompt ought to take. Absent: no
  // request is hedged.
  absl::optional<Clock::duration> after;
  // Of the requests, those that may be hedged.
  double budget_percent = 5;
};

// Thread-safe.
class HedgeBudget {
 public:
  // Hedges that may come at once, after a quiet time: what a worker that hangs may hold up before others are preferred.
  static constexpr double kBurst = 10;

  explicit HedgeBudget(double percent) : share_(percent / 100) {}
  HedgeBudget(const HedgeBudget&) = delete;

  void Earn() {
    std::lock_guard<std::mutex> lock(mutex_);
    saved_ = std::min(kBurst, saved_ + share_);
  }
  bool Take() {
    std::lock_guard<std::mutex> lock(mutex_);
    // A little less than one, for twenty times a twentieth is.
    if (saved_ < 1 - 1e-9) return false;
    saved_ -= 1;
    return true;
  }

 private:
  const double share_;
  std::mutex mutex_;
  double saved_ = kBurst;
};

}  // namespace baton
