// How fast a prefill worker computes a prompt when nothing is in its way: the best it has shown lately. What it takes
// for a prompt is at least that, so a request that takes much longer is held up by something.
//
//   PromptPace pace;
//   pace.Computed(2048, std::chrono::seconds(1), now);        // from asking to the first token
//   pace.TimeFor(4096);                                       // two seconds; absent while nothing is known
//
// A prompt that waited for others only seems slow, and does not count. What was shown once fades, halved each minute,
// for a worker may become slower for good.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>

#include "absl/types/optional.h"
#include "common/rpc/local_prefill.h"
#include "gateway/timers.h"

namespace baton {

class PromptPace {
 public:
  static constexpr std::chrono::minutes kHalfLife{1};
  static constexpr std::chrono::hours kLongest{1};

  void Computed(int64_t tokens, Clock::duration time, Clock::time_point now) {
    const double seconds = std::max(1e-6, std::chrono::duration<double>(time).count());
    const double shown = Rows(tokens) / seconds;
    const double faded = std::exp2(-SecondsBetween(last_, now) / std::chrono::duration<double>(kHalfLife).count());
    rows_per_second_ = known() ? std::max(shown, rows_per_second_ * faded) : shown;
    last_ = now;
  }
  bool known() const { return rows_per_second_ > 0; }
  absl::optional<Clock::duration> TimeFor(int64_t tokens) const {
    if (!known()) return absl::nullopt;
    const std::chrono::duration<double> time(Rows(tokens) / rows_per_second_);
    if (time > kLongest) return kLongest;
    return std::chrono::duration_cast<Clock::duration>(time);
  }
  static const PromptPace& Faster(const PromptPace& a, const PromptPace& b) {
    return a.rows_per_second_ < b.rows_per_second_ ? b : a;
  }

 private:
  // Reading the weights takes its time, however short the prompt.
  static double Rows(int64_t tokens) { return static_cast<double>(std::max<int64_t>(1, tokens)) + kWeightPassRows; }

  double rows_per_second_ = 0;
  // When something was shown last.
  Clock::time_point last_;
};

}  // namespace baton
