// A few threads for the checks of large requests: tokenizing megabytes of text takes seconds, in which gRPC's own
// threads would relay nobody's tokens. Large requests wait for each other; everybody else is served.
//
//   if (!lane.Run(bytes, [=] { session->Start(CheckGenerate(*request, ...)); })) ...      // too many are waiting
//
// Small ones run at once, in the caller's thread. Destruction waits for what runs and drops what waits.
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

namespace baton {

class TextLane {
 public:
  // Requests up to this size are checked in a few milliseconds.
  static constexpr size_t kSmallBytes = size_t{64} << 10;

  explicit TextLane(int threads = 2, size_t max_waiting = 32);
  ~TextLane();
  TextLane(const TextLane&) = delete;

  // False, without running `work`, when it is large and enough others are waiting.
  bool Run(size_t bytes, std::function<void()> work);

 private:
  void Loop();

  const size_t max_waiting_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<std::function<void()>> waiting_;
  bool stopping_ = false;
  std::vector<std::thread> threads_;
};

}  // namespace baton
