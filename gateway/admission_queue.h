// Who may run, and who waits. At most max_running requests run; others wait, at most max_queue of them with at most
// max_queue_tokens of work, at most queue_timeout each, in the order of gateway/fair_order.h. A request runs when it
// has a slot and the router has found it workers with room, so one that waits for a full model is passed by requests
// for another, but never by one behind it for its own.
//
// Work is predicted in tokens: the prompt's and all that may be generated. How fast waiting work is served is measured,
// and says when to try again, and whether a request's deadline can be met at all.
//
//   auto ticket = std::make_shared<AdmissionTicket>(request, metrics, on_route);
//   absl::StatusOr<absl::optional<Route>> route = queue.Enter(ticket);
//     a route                               runs now
//     nothing                               waits: on_route is called later, once, on the timers' thread
//     RESOURCE_EXHAUSTED (QUEUE_FULL, DEADLINE_TOO_NEAR), or what Router::Place refuses
//   queue.Requeue(ticket);                  // running, but its workers turned out to be full: wait again, place kept
//   absl::optional<Route> route = queue.Resume(next, avoid, deadline);
//                                           // has run, and lost its workers: goes before all that have not, and
//                                           // needs no slot; `next` is a ticket of its own
//   queue.Leave(ticket);                    // done, cancelled or failed: exactly once at the end of every request;
//                                           // more often does no harm
//
// on_route gets a route, RESOURCE_EXHAUSTED (QUEUE_TIMEOUT), or what the router refuses. It may still be called while
// Leave runs. No lock is held then. Enter, Requeue and Leave may be called with the callers' locks held.
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "gateway/fair_order.h"
#include "gateway/gateway_metrics.h"
#include "gateway/router.h"
#include "gateway/service_rate.h"
#include "gateway/timers.h"

namespace baton {

struct AdmissionOptions {
  int max_running = 1024;
  int max_queue = 512;
  // Of predicted work that may wait.
  int64_t max_queue_tokens = int64_t{4} << 20;
  Clock::duration queue_timeout = std::chrono::seconds(30);
  FairOrderOptions order;
};

// What the queue has to know of a request.
struct AdmissionRequest {
  Demand demand;
  int priority = 0;
  // Clients share fairly; all that are nobody share as one.
  std::string client;
  // Of the call; a request that cannot be served by then is refused at once.
  std::chrono::system_clock::time_point deadline = std::chrono::system_clock::time_point::max();
};

// One request's place. Made by the request, changed by the queue alone.
class AdmissionTicket {
 public:
  using OnRoute = std::function<void(absl::StatusOr<Route>)>;
  // `metrics`: whose waiting and running gauges count it.
  AdmissionTicket(AdmissionRequest request, ModelMetrics* metrics, OnRoute on_route)
      : request_(std::move(request)),
        group_(request_.demand.fingerprint + (request_.demand.state_tokens > 0 ? "decode" : "prefill")),
        metrics_(metrics),
        on_route_(std::move(on_route)) {}

  const Demand& demand() const { return request_.demand; }
  // From now on a prefill worker computes the prompt. Not while the ticket waits.
  void WantPrefillWorker() { request_.demand.may_be_local = false; }

 private:
  friend class AdmissionQueue;
  enum class State { kNew, kWaiting, kRunning, kLeft };

  AdmissionRequest request_;
  // Requests of one group wait for the same workers and keep their order.
  const std::string group_;
  ModelMetrics* const metrics_;
  // Dropped when the ticket leaves, with whatever it holds.
  OnRoute on_route_;
  State state_ = State::kNew;
  // Of a request that has a slot by another ticket.
  bool resumes_ = false;
  Avoid avoid_;
  FairOrder::Place place_;
  // Until when it waits.
  Clock::time_point patience_;
  Timers::Id timeout_;
};

class AdmissionQueue {
 public:
  // `router` and `timers` must outlive it, and `timers` must be stopped before it goes.
  AdmissionQueue(const AdmissionOptions& options, Router* router, Timers* timers);
  AdmissionQueue(const AdmissionQueue&) = delete;

  absl::StatusOr<absl::optional<Route>> Enter(const std::shared_ptr<AdmissionTicket>& ticket);
  void Requeue(const std::shared_ptr<AdmissionTicket>& ticket);
  // A route now, or on_route is called later: with a route, or, at `deadline`, with what the router says then, when
  // nobody is avoided any more. Unlike others, it waits for workers also where there are none.
  absl::StatusOr<absl::optional<Route>> Resume(const std::shared_ptr<AdmissionTicket>& ticket, const Avoid& avoid,
                                               Clock::time_point deadline);
  void Leave(const std::shared_ptr<AdmissionTicket>& ticket);
  // There may be more room: the fleet changed, or a request gave a worker back.
  void Wake();

  int64_t running() const;
  int64_t waiting() const;
  // Some request waits for workers of this fingerprint.
  bool Waits(const std::string& fingerprint) const;
  // Predicted work of those that wait.
  int64_t waiting_tokens() const;
  const AdmissionOptions& options() const { return options_; }

 private:
  // Requests that wait for the same workers.
  struct Group {
    int waiting = 0;
    int64_t waiting_tokens = 0;
    ServiceRate rate;
  };

  bool IsFull(const AdmissionTicket& ticket) const;
  // How long the ticket, which is about to wait, will do so, as far as that can be told.
  absl::optional<Clock::duration> PredictWait(const AdmissionTicket& ticket, Clock::time_point now) const;
  // When to try again.
  absl::Duration RetryAfter(const Group& group) const;
  // The ticket leaves before it was served; returns `status`.
  absl::Status Refuse(AdmissionTicket& ticket, absl::Status status);
  // Waiting requests in the order in which they are served: resumed ones first.
  std::vector<std::shared_ptr<AdmissionTicket>> InOrder(Clock::time_point now) const;
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
  // By arrival.
  std::map<uint64_t, std::shared_ptr<AdmissionTicket>> waiting_;
  // Those that have run before, by arrival here.
  std::map<uint64_t, std::shared_ptr<AdmissionTicket>> resuming_;
  uint64_t resumes_ = 0;
  std::map<std::string, Group> groups_;
  int64_t waiting_tokens_ = 0;
  FairOrder order_;
  int running_ = 0;
  bool dispatch_posted_ = false;
};

}  // namespace baton
