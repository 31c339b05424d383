#include "gateway/fair_order.h"

#include <algorithm>
#include <iterator>
#include <tuple>

namespace baton {

FairOrder::Place FairOrder::Enter(const std::string& client, int priority, int64_t work, Clock::time_point now) {
  if (finish_.size() >= forget_at_) ForgetIdle();
  double& finish = finish_[client];
  Place place;
  place.priority = priority;
  place.tag = std::max(virtual_time_, finish);
  place.arrival = ++arrivals_;
  place.entered = now;
  finish = place.tag + static_cast<double>(std::max<int64_t>(1, work));
  return place;
}

void FairOrder::Withdraw(const std::string& client, int64_t work) {
  const auto finish = finish_.find(client);
  if (finish != finish_.end()) finish->second -= static_cast<double>(std::max<int64_t>(1, work));
}

void FairOrder::Serve(const Place& place) { virtual_time_ = std::max(virtual_time_, place.tag); }

int64_t FairOrder::AgedPriority(const Place& place, Clock::time_point now) const {
  if (options_.aging <= Clock::duration::zero()) return place.priority;
  return place.priority + (now - place.entered) / options_.aging;
}

bool FairOrder::Before(const Place& a, const Place& b, Clock::time_point now) const {
  return std::make_tuple(-AgedPriority(a, now), a.tag, a.arrival) <
         std::make_tuple(-AgedPriority(b, now), b.tag, b.arrival);
}

void FairOrder::ForgetIdle() {
  for (auto entry = finish_.begin(); entry != finish_.end();) {
    entry = entry->second <= virtual_time_ ? finish_.erase(entry) : std::next(entry);
  }
  // So that many busy clients are not looked through at every arrival.
  forget_at_ = std::max<size_t>(1024, 2 * finish_.size());
}

}  // namespace baton
