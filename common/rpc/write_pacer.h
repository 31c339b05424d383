// When the streams of a busy server write. A message costs gRPC the same few microseconds whether it holds one token or
// ten, so a server with little to do writes each at once, and one with much to do had better write fewer, larger ones.
//
// The rule: the next write waits as long as the last one took. Where there is nothing else to do, that is microseconds
// and nobody notices. On a busy core writes take longer, as they wait for the core, and what many streams have to write
// meanwhile goes out in passes, one message for each stream; the next pass waits as long as the last one took, at most
// kLongestPause. So writing takes at most about half of the time, and the rest is for what there is to be written.
//
//   EventWriter<Event> writer(limit, on_end, merge, &pacer);
//
// Thread-safe. Owns a thread, which sleeps while nobody waits.
#pragma once

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"

namespace baton {

class WritePacer {
 public:
  // The most that a message waits for company.
  static constexpr std::chrono::milliseconds kLongestPause{5};

  class Writer {
   public:
    virtual ~Writer() = default;
    // Begins to write what is there.
    virtual void WriteDeferred() = 0;
  };

  WritePacer();
  // Writers that still wait are let go of without a word.
  ~WritePacer();
  WritePacer(const WritePacer&) = delete;

  // One write, from its beginning to its end. False: not now; Defer.
  bool Begin(int64_t* begun) const {
    const int64_t now = Now();
    *begun = now;
    return waiting_.load(std::memory_order_relaxed) == 0 && now >= next_.load(std::memory_order_relaxed);
  }
  void End(int64_t begun) {
    const int64_t now = Now();
    next_.store(now + std::min(now - begun, std::chrono::nanoseconds(kLongestPause).count()),
                std::memory_order_relaxed);
  }
  // Its turn comes with the next pass. Once until then.
  void Defer(std::shared_ptr<Writer> writer);

 private:
  // Nanoseconds.
  static int64_t Now() {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now().time_since_epoch())
        .count();
  }
  void Loop();
  bool SomeoneWaits() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || !writers_.empty(); }

  std::atomic<int64_t> waiting_{0};
  // When the next write may begin.
  std::atomic<int64_t> next_{0};
  absl::Mutex mutex_;
  std::vector<std::shared_ptr<Writer>> writers_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace baton
