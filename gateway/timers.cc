#include "gateway/timers.h"

namespace baton {

Timers::Timers() {
  thread_ = std::thread([this] { Loop(); });
}

Timers::~Timers() { Stop(); }

Timers::Id Timers::At(Clock::time_point when, std::function<void()> callback) {
  std::lock_guard<std::mutex> lock(mutex_);
  const Id id(when, ++next_number_);
  if (stopping_) return id;
  const bool first = pending_.empty() || id < pending_.begin()->first;
  pending_.emplace(id, std::move(callback));
  if (first) changed_.notify_one();
  return id;
}

void Timers::Cancel(const Id& id) {
  // Destroyed after the lock is gone: what the callback holds may take locks on its way out.
  std::function<void()> dropped;
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = pending_.find(id);
  if (found == pending_.end()) return;
  dropped = std::move(found->second);
  pending_.erase(found);
}

void Timers::Stop() {
  std::map<Id, std::function<void()>> dropped;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    dropped.swap(pending_);
    changed_.notify_one();
  }
  if (thread_.joinable()) thread_.join();
}

void Timers::Loop() {
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_) {
    if (pending_.empty()) {
      changed_.wait(lock);
      continue;
    }
    const auto next = pending_.begin();
    if (next->first.first > Clock::now()) {
      const Clock::time_point when = next->first.first;
      changed_.wait_until(lock, when);
      continue;
    }
    std::function<void()> callback = std::move(next->second);
    pending_.erase(next);
    lock.unlock();
    callback();
    callback = nullptr;
    lock.lock();
  }
}

}  // namespace baton
