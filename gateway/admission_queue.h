// Who may run, and who waits. At most max_running requests run; others wait by (priority, arrival), at most max_queue
// of them, at most queue_timeout each. A request runs when it has a slot and the router has found it workers with room,
// so one that waits for a full model is passed by requests for another, but never by a later one for its own.
//
//   auto ticket = std::make_shared<AdmissionTicket>(demand, priority, metrics, on_route);
//   absl::StatusOr<absl::optional<Route>> route = queue.Enter(ticket);
//     a route                               runs now
//     nothing                               waits: on_route is called later, once, on the timers' thread
//     RESOURCE_EXHAUSTED (QUEUE_FULL), or what Router::Place refuses
//   queue.Requeue(ticket);                  // running, but its workers turned out to be full: wait again, place kept
//   absl::optional<Route> route = queue.Resume(next, avoid, deadline);
//                                           // has run, and lost its workers: goes before all that have not, and needs
//                                           no
//                                           // slot; `next` is a ticket of its own
//   queue.Leave(ticket);                    // done, cancelled or failed: exactly once at the end of every request;
//   more
//                                           // often does no harm
//
// on_route gets a route, RESOURCE_EXHAUSTED (QUEUE_TIMEOUT), or what the router refuses. It may still be called while
// Leave runs. No lock is held then. Enter, Requeue and Leave may be called with the callers' locks held.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <tuple>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "gateway/gateway_metrics.h"
#include "gateway/router.h"
#include "gateway/timers.h"

namespace baton {

struct AdmissionOptions {
  int max_running = 1024;
  int max_queue = 512;
  Clock::duration queue_timeout = std::chrono::seconds(30);
};

// One request's place. Made by the request, changed by the queue alone.
class AdmissionTicket {
 public:
  using OnRoute = std::function<void(absl::StatusOr<Route>)>;
  // `metrics`: whose waiting and running gauges count it.
  AdmissionTicket(Demand demand, int priority, ModelMetrics* metrics, OnRoute on_route)
      : demand_(std::move(demand)),
        group_(demand_.fingerprint + (demand_.state_tokens > 0 ? "decode" : "prefill")),
        priority_(priority),
        metrics_(metrics),
        on_route_(std::move(on_route)) {}

  const Demand& demand() const { return demand_; }
  // From now on a prefill worker computes the prompt. Not while the ticket waits.
  void WantPrefillWorker() { demand_.may_be_local = false; }

 private:
  friend class AdmissionQueue;
  enum class State { kNew, kWaiting, kRunning, kLeft };

  Demand demand_;
  // Requests of one group wait for the same workers and keep their order.
  const std::string group_;
  const int priority_;
  ModelMetrics* const metrics_;
  // Dropped when the ticket leaves, with whatever it holds.
  OnRoute on_route_;
  State state_ = State::kNew;
  // Of a request that has a slot by another ticket.
  bool resumes_ = false;
  Avoid avoid_;
  uint64_t arrival_ = 0;
  Clock::time_point deadline_;
  Timers::Id timeout_;
};

class AdmissionQueue {
 public:
  // `router` and `timers` must outlive it, and `timers` must be stopped before it goes.
  AdmissionQueue(const AdmissionOptions& options, Router* router, Timers* timers);
  AdmissionQueue(const AdmissionQueue&) = delete;

  absl::StatusOr<absl::optional<Route>> Enter(const std::shared_ptr<AdmissionTicket>& ticket);
  void Requeue(const std::shared_ptr<AdmissionTicket>& ticket);
  // A route now, or on_route is called later: with a route, or, at `deadline`, with what the router says then. Unlike
  // others, it waits for workers also where there are none.
  absl::StatusOr<absl::optional<Route>> Resume(const std::shared_ptr<AdmissionTicket>& ticket, const Avoid& avoid,
                                               Clock::time_point deadline);
  void Leave(const std::shared_ptr<AdmissionTicket>& ticket);
  // There may be more room: the fleet changed, or a request gave a worker back.
  void Wake();

  int64_t running() const;
  int64_t waiting() const;

 private:
  // Resumed ones first, then larger priorities, then the order of arrival.
  using Key = std::tuple<bool, int, uint64_t>;

  static Key KeyOf(const AdmissionTicket& ticket) { return {!ticket.resumes_, -ticket.priority_, ticket.arrival_}; }
  void Insert(const std::shared_ptr<AdmissionTicket>& ticket);
  void SetState(AdmissionTicket& ticket, AdmissionTicket::State state);
  void WakeLocked();
  void Dispatch();
  void Expire(const std::shared_ptr<AdmissionTicket>& ticket);

  const AdmissionOptions options_;
  Router* const router_;
  Timers* const timers_;

  // Guards what follows and every ticket's mutable members.
  mutable std::mutex mutex_;
  std::map<Key, std::shared_ptr<AdmissionTicket>> waiting_;
  int running_ = 0;
  uint64_t arrivals_ = 0;
  bool dispatch_posted_ = false;
};

}  // namespace baton
