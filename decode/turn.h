// Whose turn it is when there are more sequences than one step takes.
//
// Whoever ran longest ago goes first. A priority of p counts as p steps of waiting: with equal priorities all take
// turns, and a sequence of priority 0 beside any number of priority 100 still runs every hundredth step or so.
#pragma once

#include <cstdint>

namespace baton {

struct Turn {
  // The step it last took part in; for a new sequence the step before it arrived.
  int64_t last_step = 0;
  int priority = 0;
  // Counts arrivals and turns alike, so that among those of one step, too, the longest waiting goes first.
  int64_t number = 0;
};

inline bool GoesBefore(const Turn& a, const Turn& b) {
  const int64_t due_a = a.last_step - a.priority;
  const int64_t due_b = b.last_step - b.priority;
  return due_a != due_b ? due_a < due_b : a.number < b.number;
}

}  // namespace baton
