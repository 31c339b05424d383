// Samples of something over the last while, to compare the present with.
//
//   SampleWindow<Counts> window(std::chrono::seconds(60));
//   window.Add(now, counts);                                  // each second, say
//   if (const auto* then = window.At(now - std::chrono::seconds(10))) ... counts - then->value ...
//
// Not thread-safe.
#pragma once

#include <deque>
#include <iterator>
#include <utility>

#include "gateway/timers.h"

namespace baton {

template <typename Value>
class SampleWindow {
 public:
  struct Sample {
    Clock::time_point time;
    Value value;
  };

  // Forgets what is not needed for At(newest - longest).
  explicit SampleWindow(Clock::duration longest) : longest_(longest) {}

  // Ignored unless it is newer than the last one.
  void Add(Clock::time_point time, Value value) {
    if (!samples_.empty() && time <= samples_.back().time) return;
    samples_.push_back({time, std::move(value)});
    while (samples_.size() > 1 && samples_[1].time <= time - longest_) samples_.pop_front();
  }
  // The newest sample that is as old as `time`; the oldest where there is none; null without samples.
  const Sample* At(Clock::time_point time) const {
    if (samples_.empty()) return nullptr;
    auto sample = samples_.rbegin();
    while (sample->time > time && std::next(sample) != samples_.rend()) ++sample;
    return &*sample;
  }

 private:
  const Clock::duration longest_;
  std::deque<Sample> samples_;
};

}  // namespace baton
