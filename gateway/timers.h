// Things to do later: queue timeouts, time limits, pauses between attempts. One thread runs all callbacks, one after
// another and without any lock held, so they may take locks but must not block for long.
//
//   Timers::Id id = timers.After(std::chrono::seconds(30), [weak] { if (auto s = weak.lock()) s->OnTimeout(); });
//   timers.Cancel(id);                        // a callback that has begun still runs to its end
//
// Thread-safe. After Stop() nothing runs any more and new callbacks are dropped. Callbacks that outlive their subject
// hold a weak_ptr to it, or are stopped first.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <thread>
#include <utility>

namespace baton {

using Clock = std::chrono::steady_clock;

class Timers {
 public:
  // When, and a number that tells equal times apart.
  using Id = std::pair<Clock::time_point, uint64_t>;

  Timers();
  ~Timers();
  Timers(const Timers&) = delete;

  Id At(Clock::time_point when, std::function<void()> callback);
  Id After(Clock::duration delay, std::function<void()> callback) {
    return At(Clock::now() + delay, std::move(callback));
  }
  // As soon as possible, on the timers' thread: for callers that hold locks the callback needs.
  void Post(std::function<void()> callback) { At(Clock::now(), std::move(callback)); }
  void Cancel(const Id& id);
  // Waits for a running callback; not to be called from one.
  void Stop();

 private:
  void Loop();

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::map<Id, std::function<void()>> pending_;
  uint64_t next_number_ = 0;
  bool stopping_ = false;
  std::thread thread_;
};

// Seconds between two instants.
inline double SecondsBetween(Clock::time_point from, Clock::time_point to) {
  return std::chrono::duration<double>(to - from).count();
}

}  // namespace baton
