#include "gateway/admission_queue.h"

#include <algorithm>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

constexpr absl::Duration kRetryAfter = absl::Seconds(1);

// What the router refuses now and may grant later.
bool MayComeTrue(const absl::Status& status) {
  return absl::IsResourceExhausted(status) || absl::IsUnavailable(status);
}

}  // namespace

AdmissionQueue::AdmissionQueue(const AdmissionOptions& options, Router* router, Timers* timers)
    : options_(options), router_(router), timers_(timers) {}

absl::StatusOr<absl::optional<Route>> AdmissionQueue::Enter(const std::shared_ptr<AdmissionTicket>& ticket) {
  std::lock_guard<std::mutex> lock(mutex_);
  ticket->arrival_ = ++arrivals_;
  ticket->deadline_ = Clock::now() + options_.queue_timeout;
  const bool others_first = std::any_of(waiting_.begin(), waiting_.end(),
                                        [&](const auto& entry) { return entry.second->group_ == ticket->group_; });
  if (running_ < options_.max_running && !others_first) {
    absl::StatusOr<Route> route = router_->Place(ticket->demand_);
    if (route.ok()) {
      SetState(*ticket, AdmissionTicket::State::kRunning);
      return absl::optional<Route>(*std::move(route));
    }
    if (!absl::IsResourceExhausted(route.status())) {
      SetState(*ticket, AdmissionTicket::State::kLeft);
      return route.status();
    }
  }
  if (static_cast<int64_t>(waiting_.size()) >= options_.max_queue) {
    SetState(*ticket, AdmissionTicket::State::kLeft);
    return WithRetryAfter(
        absl::ResourceExhaustedError(absl::StrCat("the gateway is overloaded: ", running_, " requests are running and ",
                                                  waiting_.size(), " waiting; try again later")),
        kRetryAfter, "QUEUE_FULL");
  }
  Insert(ticket);
  // A larger priority than those that wait may run at once.
  if (others_first) WakeLocked();
  return absl::optional<Route>();
}

void AdmissionQueue::Requeue(const std::shared_ptr<AdmissionTicket>& ticket) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (ticket->state_ != AdmissionTicket::State::kRunning) return;
  Insert(ticket);
  // Its slot is free for others; itself it waits for news of the workers, but those may have come already.
  WakeLocked();
}

absl::StatusOr<absl::optional<Route>> AdmissionQueue::Resume(const std::shared_ptr<AdmissionTicket>& ticket,
                                                             const Avoid& avoid, Clock::time_point deadline) {
  std::lock_guard<std::mutex> lock(mutex_);
  ticket->resumes_ = true;
  ticket->avoid_ = avoid;
  ticket->arrival_ = ++arrivals_;
  ticket->deadline_ = deadline;
  absl::StatusOr<Route> route = router_->Place(ticket->demand_, avoid);
  if (route.ok()) {
    SetState(*ticket, AdmissionTicket::State::kLeft);
    return absl::optional<Route>(*std::move(route));
  }
  if (!MayComeTrue(route.status()) || Clock::now() >= deadline) {
    SetState(*ticket, AdmissionTicket::State::kLeft);
    return route.status();
  }
  Insert(ticket);
  return absl::optional<Route>();
}

void AdmissionQueue::Leave(const std::shared_ptr<AdmissionTicket>& ticket) {
  AdmissionTicket::OnRoute dropped;
  std::lock_guard<std::mutex> lock(mutex_);
  dropped.swap(ticket->on_route_);
  if (ticket->state_ == AdmissionTicket::State::kLeft) return;
  if (ticket->state_ == AdmissionTicket::State::kWaiting) {
    waiting_.erase(KeyOf(*ticket));
    timers_->Cancel(ticket->timeout_);
  }
  SetState(*ticket, AdmissionTicket::State::kLeft);
  WakeLocked();
}

void AdmissionQueue::Wake() {
  std::lock_guard<std::mutex> lock(mutex_);
  WakeLocked();
}

void AdmissionQueue::WakeLocked() {
  if (waiting_.empty() || dispatch_posted_) return;
  dispatch_posted_ = true;
  timers_->Post([this] { Dispatch(); });
}

void AdmissionQueue::Insert(const std::shared_ptr<AdmissionTicket>& ticket) {
  SetState(*ticket, AdmissionTicket::State::kWaiting);
  waiting_[KeyOf(*ticket)] = ticket;
  const std::weak_ptr<AdmissionTicket> weak = ticket;
  ticket->timeout_ = timers_->At(ticket->deadline_, [this, weak] {
    if (const std::shared_ptr<AdmissionTicket> strong = weak.lock()) Expire(strong);
  });
}

void AdmissionQueue::SetState(AdmissionTicket& ticket, AdmissionTicket::State state) {
  if (ticket.resumes_) {
    // Its request is counted as running all the while.
    ticket.state_ = state;
    return;
  }
  if (ticket.state_ == AdmissionTicket::State::kWaiting) ticket.metrics_->waiting.Decrement();
  if (ticket.state_ == AdmissionTicket::State::kRunning) {
    ticket.metrics_->running.Decrement();
    --running_;
  }
  ticket.state_ = state;
  if (state == AdmissionTicket::State::kWaiting) ticket.metrics_->waiting.Increment();
  if (state == AdmissionTicket::State::kRunning) {
    ticket.metrics_->running.Increment();
    ++running_;
  }
}

void AdmissionQueue::Dispatch() {
  std::vector<std::pair<AdmissionTicket::OnRoute, absl::StatusOr<Route>>> decided;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    dispatch_posted_ = false;
    std::set<std::string> full_groups;
    for (auto entry = waiting_.begin(); entry != waiting_.end();) {
      const std::shared_ptr<AdmissionTicket> ticket = entry->second;
      // Those that need no slot come first.
      if (!ticket->resumes_ && running_ >= options_.max_running) break;
      if (full_groups.count(ticket->group_) > 0) {
        ++entry;
        continue;
      }
      absl::StatusOr<Route> route = router_->Place(ticket->demand_, ticket->avoid_);
      if (ticket->resumes_ && absl::IsUnavailable(route.status())) {
        ++entry;
        continue;
      }
      if (absl::IsResourceExhausted(route.status())) {
        full_groups.insert(ticket->group_);
        ++entry;
        continue;
      }
      entry = waiting_.erase(entry);
      timers_->Cancel(ticket->timeout_);
      const bool runs = route.ok() && !ticket->resumes_;
      SetState(*ticket, runs ? AdmissionTicket::State::kRunning : AdmissionTicket::State::kLeft);
      decided.emplace_back(ticket->on_route_, std::move(route));
    }
  }
  for (auto& [on_route, route] : decided) on_route(std::move(route));
}

void AdmissionQueue::Expire(const std::shared_ptr<AdmissionTicket>& ticket) {
  AdmissionTicket::OnRoute on_route;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (ticket->state_ != AdmissionTicket::State::kWaiting || Clock::now() < ticket->deadline_) return;
    waiting_.erase(KeyOf(*ticket));
    SetState(*ticket, AdmissionTicket::State::kLeft);
    on_route = std::move(ticket->on_route_);
    ticket->on_route_ = nullptr;
  }
  // The router knows why it waited in vain.
  if (ticket->resumes_) return on_route(router_->Place(ticket->demand_, ticket->avoid_));
  const double seconds = std::chrono::duration<double>(options_.queue_timeout).count();
  on_route(
      WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat("no capacity within the queue timeout of ", seconds,
                                                               " s; try again later or with a lower max_new_tokens")),
                     kRetryAfter, "QUEUE_TIMEOUT"));
}

int64_t AdmissionQueue::running() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return running_;
}

int64_t AdmissionQueue::waiting() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int64_t>(waiting_.size());
}

}  // namespace baton
