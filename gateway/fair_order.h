// In which order requests that wait are served: first by priority, which grows with the wait, so that nobody starves;
// then fairly among clients, by the tokens of work each has had; then by arrival.
//
// Fairness is start-time fair queueing (Goyal, Vin, Cheng 1996): a request's tag is where its client's share of the
// work would have come to when everything before it is done. A client that asks for much gets large tags; one that was
// away begins at the current virtual time, with neither credit nor debt.
//
//   FairOrder order({.aging = std::chrono::seconds(5)});
//   FairOrder::Place place = order.Enter(client, priority, /*work=*/512, now);
//   ... order.Before(a, b, now) ...                    // a is served before b
//   order.Serve(place);                                // virtual time moves on
//
// Not thread-safe: the admission queue's lock guards it.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <unordered_map>

#include "gateway/timers.h"

namespace baton {

struct FairOrderOptions {
  // A request that has waited this long counts as one priority higher, and again after as long. Zero: never.
  Clock::duration aging = std::chrono::seconds(5);
};

class FairOrder {
 public:
  struct Place {
    int priority = 0;
    // Virtual start: tokens.
    double tag = 0;
    uint64_t arrival = 0;
    Clock::time_point entered;
  };

  explicit FairOrder(const FairOrderOptions& options) : options_(options) {}

  // `work`: predicted tokens, at least 1.
  Place Enter(const std::string& client, int priority, int64_t work, Clock::time_point now);
  // The request of that client is not served after all: gives its share back.
  void Withdraw(const std::string& client, int64_t work);
  bool Before(const Place& a, const Place& b, Clock::time_point now) const;
  void Serve(const Place& place);

  // Clients that are remembered: those that have had more than their share just now.
  size_t clients() const { return finish_.size(); }

 private:
  int64_t AgedPriority(const Place& place, Clock::time_point now) const;
  void ForgetIdle();

  const FairOrderOptions options_;
  double virtual_time_ = 0;
  uint64_t arrivals_ = 0;
  // Of each client: where its work so far comes to.
  std::unordered_map<std::string, double> finish_;
  size_t forget_at_ = 1024;
};

}  // namespace baton
