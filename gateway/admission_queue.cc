#include "gateway/admission_queue.h"

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

// Of groups whose pace is not known yet.
constexpr absl::Duration kRetryAfter = absl::Seconds(1);
constexpr absl::Duration kShortestRetryAfter = absl::Milliseconds(100);
constexpr absl::Duration kLongestRetryAfter = absl::Seconds(60);

// Tokens to prefill plus tokens that may be generated.
int64_t WorkOf(const Demand& demand) {
  const int64_t output = std::max<int64_t>(0, demand.state_tokens - demand.prompt_tokens);
  return std::max<int64_t>(1, demand.prompt_tokens + output * demand.samples);
}

// As system and steady clock stand now.
Clock::time_point ToSteady(std::chrono::system_clock::time_point when, Clock::time_point now) {
  const auto left = when - std::chrono::system_clock::now();
  // Beyond a year it is no deadline.
  if (left > std::chrono::hours(24 * 365)) return Clock::time_point::max();
  return now + std::chrono::duration_cast<Clock::duration>(left);
}

// What the router refuses now and may grant later.
bool MayComeTrue(const absl::Status& status) {
  return absl::IsResourceExhausted(status) || absl::IsUnavailable(status);
}

}  // namespace

AdmissionQueue::AdmissionQueue(const AdmissionOptions& options, Router* router, Timers* timers)
    : options_(options), router_(router), timers_(timers), order_(options.order) {}

bool AdmissionQueue::IsFull(const AdmissionTicket& ticket) const {
  if (static_cast<int64_t>(waiting_.size()) >= options_.max_queue) return true;
  // One that is larger than the limit may wait alone.
  return !waiting_.empty() && waiting_tokens_ + WorkOf(ticket.demand()) > options_.max_queue_tokens;
}

absl::optional<Clock::duration> AdmissionQueue::PredictWait(const AdmissionTicket& ticket,
                                                            Clock::time_point now) const {
  int64_t before = 0;
  for (const auto& [arrival, other] : waiting_) {
    if (other->group_ == ticket.group_ && order_.Before(other->place_, ticket.place_, now)) {
      before += WorkOf(other->demand());
    }
  }
  return groups_.at(ticket.group_).rate.TimeFor(before);
}

absl::Duration AdmissionQueue::RetryAfter(const Group& group) const {
  const absl::optional<Clock::duration> wait = group.rate.TimeFor(group.waiting_tokens);
  if (!wait.has_value()) return kRetryAfter;
  return std::min(kLongestRetryAfter, std::max(kShortestRetryAfter, absl::FromChrono(*wait)));
}

absl::Status AdmissionQueue::Refuse(AdmissionTicket& ticket, absl::Status status) {
  SetState(ticket, AdmissionTicket::State::kLeft);
  return status;
}

absl::StatusOr<absl::optional<Route>> AdmissionQueue::Enter(const std::shared_ptr<AdmissionTicket>& ticket) {
  std::lock_guard<std::mutex> lock(mutex_);
  const Clock::time_point now = Clock::now();
  const AdmissionRequest& request = ticket->request_;
  Group& group = groups_[ticket->group_];
  ticket->place_ = order_.Enter(request.client, request.priority, WorkOf(request.demand), now);
  ticket->patience_ = now + options_.queue_timeout;
  const bool others_first = group.waiting > 0;
  if (running_ < options_.max_running && !others_first) {
    absl::StatusOr<Route> route = router_->Place(request.demand);
    if (route.ok()) {
      SetState(*ticket, AdmissionTicket::State::kRunning);
      return absl::optional<Route>(*std::move(route));
    }
    if (!absl::IsResourceExhausted(route.status())) return Refuse(*ticket, route.status());
  }
  if (IsFull(*ticket)) {
    const absl::Status status = absl::ResourceExhaustedError(
        absl::StrCat("the gateway is overloaded: ", running_, " requests are running and ", waiting_.size(), " with ",
                     waiting_tokens_, " tokens of work are waiting; try again later"));
    return Refuse(*ticket, WithRetryAfter(status, RetryAfter(group), "QUEUE_FULL"));
  }
  const absl::optional<Clock::duration> wait = PredictWait(*ticket, now);
  if (wait.has_value() && ToSteady(request.deadline, now) - *wait < now) {
    const absl::Duration shown = absl::Trunc(absl::FromChrono(*wait), absl::Milliseconds(100));
    const absl::Status status = absl::ResourceExhaustedError(
        absl::StrCat("the queue is about ", absl::FormatDuration(shown),
                     " long, more than the call's deadline leaves; allow more time or try again later"));
    return Refuse(*ticket, WithRetryAfter(status, RetryAfter(group), "DEADLINE_TOO_NEAR"));
  }
  Insert(ticket);
  // It may come before those that wait, and run at once.
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
  ticket->place_.arrival = ++resumes_;
  ticket->patience_ = deadline;
  const bool late = Clock::now() >= deadline;
  absl::StatusOr<Route> route = router_->Place(ticket->demand(), late ? Avoid() : avoid);
  if (route.ok()) {
    SetState(*ticket, AdmissionTicket::State::kLeft);
    return absl::optional<Route>(*std::move(route));
  }
  if (!MayComeTrue(route.status()) || late) {
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
  if (ticket->state_ == AdmissionTicket::State::kWaiting) timers_->Cancel(ticket->timeout_);
  SetState(*ticket, AdmissionTicket::State::kLeft);
  WakeLocked();
}

void AdmissionQueue::Wake() {
  std::lock_guard<std::mutex> lock(mutex_);
  WakeLocked();
}

void AdmissionQueue::WakeLocked() {
  if ((waiting_.empty() && resuming_.empty()) || dispatch_posted_) return;
  dispatch_posted_ = true;
  timers_->Post([this] { Dispatch(); });
}

void AdmissionQueue::Insert(const std::shared_ptr<AdmissionTicket>& ticket) {
  SetState(*ticket, AdmissionTicket::State::kWaiting);
  (ticket->resumes_ ? resuming_ : waiting_)[ticket->place_.arrival] = ticket;
  const std::weak_ptr<AdmissionTicket> weak = ticket;
  ticket->timeout_ = timers_->At(ticket->patience_, [this, weak] {
    if (const std::shared_ptr<AdmissionTicket> strong = weak.lock()) Expire(strong);
  });
}

void AdmissionQueue::SetState(AdmissionTicket& ticket, AdmissionTicket::State state) {
  if (ticket.resumes_) {
    // Its request is counted as running all the while.
    if (ticket.state_ == AdmissionTicket::State::kWaiting) resuming_.erase(ticket.place_.arrival);
    ticket.state_ = state;
    return;
  }
  Group& group = groups_[ticket.group_];
  const int64_t work = WorkOf(ticket.demand());
  if (state == AdmissionTicket::State::kRunning) order_.Serve(ticket.place_);
  // However it leaves before its turn, its client has had nothing.
  const bool unserved = ticket.state_ != AdmissionTicket::State::kRunning;
  if (state == AdmissionTicket::State::kLeft && unserved) order_.Withdraw(ticket.request_.client, work);
  if (ticket.state_ == AdmissionTicket::State::kWaiting) {
    ticket.metrics_->waiting.Decrement();
    waiting_.erase(ticket.place_.arrival);
    waiting_tokens_ -= work;
    group.waiting_tokens -= work;
    if (state == AdmissionTicket::State::kRunning) group.rate.Served(work, Clock::now());
    if (--group.waiting == 0) group.rate.EndWaiting();
  }
  if (ticket.state_ == AdmissionTicket::State::kRunning) {
    ticket.metrics_->running.Decrement();
    --running_;
  }
  ticket.state_ = state;
  if (state == AdmissionTicket::State::kWaiting) {
    ticket.metrics_->waiting.Increment();
    waiting_tokens_ += work;
    group.waiting_tokens += work;
    ++group.waiting;
    group.rate.BeginWaiting(Clock::now());
  }
  if (state == AdmissionTicket::State::kRunning) {
    ticket.metrics_->running.Increment();
    ++running_;
  }
}

std::vector<std::shared_ptr<AdmissionTicket>> AdmissionQueue::InOrder(Clock::time_point now) const {
  std::vector<std::shared_ptr<AdmissionTicket>> tickets;
  tickets.reserve(resuming_.size() + waiting_.size());
  for (const auto& [arrival, ticket] : resuming_) tickets.push_back(ticket);
  for (const auto& [arrival, ticket] : waiting_) tickets.push_back(ticket);
  std::sort(tickets.begin() + static_cast<ptrdiff_t>(resuming_.size()), tickets.end(),
            [&](const auto& a, const auto& b) { return order_.Before(a->place_, b->place_, now); });
  return tickets;
}

void AdmissionQueue::Dispatch() {
  std::vector<std::pair<AdmissionTicket::OnRoute, absl::StatusOr<Route>>> decided;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    dispatch_posted_ = false;
    std::set<std::string> full_groups;
    for (const std::shared_ptr<AdmissionTicket>& ticket : InOrder(Clock::now())) {
      // Those that need no slot come first.
      if (!ticket->resumes_ && running_ >= options_.max_running) break;
      if (full_groups.count(ticket->group_) > 0) continue;
      absl::StatusOr<Route> route = router_->Place(ticket->demand(), ticket->avoid_);
      if (ticket->resumes_ && absl::IsUnavailable(route.status())) continue;
      if (absl::IsResourceExhausted(route.status())) {
        full_groups.insert(ticket->group_);
        continue;
      }
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
  absl::Duration retry_after;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (ticket->state_ != AdmissionTicket::State::kWaiting || Clock::now() < ticket->patience_) return;
    SetState(*ticket, AdmissionTicket::State::kLeft);
    retry_after = RetryAfter(groups_[ticket->group_]);
    on_route = std::move(ticket->on_route_);
    ticket->on_route_ = nullptr;
  }
  // Better anybody now than nobody; and the router knows why it waited in vain.
  if (ticket->resumes_) return on_route(router_->Place(ticket->demand(), {}));
  const double seconds = std::chrono::duration<double>(options_.queue_timeout).count();
  on_route(
      WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat("no capacity within the queue timeout of ", seconds,
                                                               " s; try again later or with a lower max_new_tokens")),
                     retry_after, "QUEUE_TIMEOUT"));
}

bool AdmissionQueue::Waits(const std::string& fingerprint) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto wants = [&](const auto& entry) { return entry.second->demand().fingerprint == fingerprint; };
  return std::any_of(resuming_.begin(), resuming_.end(), wants) || std::any_of(waiting_.begin(), waiting_.end(), wants);
}

int64_t AdmissionQueue::running() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return running_;
}

int64_t AdmissionQueue::waiting_tokens() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return waiting_tokens_;
}

int64_t AdmissionQueue::waiting() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return static_cast<int64_t>(waiting_.size() + resuming_.size());
}

}  // namespace baton
