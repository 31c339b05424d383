// How a limit of the machine is timed: usually as the best of several short passes, for whatever slows one down is not
// the machine.
#pragma once

#include <algorithm>
#include <chrono>

#include "absl/functional/function_ref.h"

namespace baton {

// The best rate of passes that each do `amount`, repeated for about `seconds`; the first only warms up.
inline double BestRate(double amount, double seconds, absl::FunctionRef<void()> pass) {
  using Clock = std::chrono::steady_clock;
  using Seconds = std::chrono::duration<double>;
  pass();
  double best = 0;
  const Clock::time_point begin = Clock::now();
  do {
    const Clock::time_point start = Clock::now();
    pass();
    best = std::max(best, amount / Seconds(Clock::now() - start).count());
  } while (Seconds(Clock::now() - begin).count() < seconds);
  return best;
}

// The rate over all of them, slow moments included.
inline double SustainedRate(double amount, double seconds, absl::FunctionRef<void()> pass) {
  using Clock = std::chrono::steady_clock;
  const Clock::time_point begin = Clock::now();
  double done = 0;
  double taken = 0;
  do {
    pass();
    done += amount;
    taken = std::chrono::duration<double>(Clock::now() - begin).count();
  } while (taken < seconds);
  return done / taken;
}

}  // namespace baton
