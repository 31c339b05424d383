// The threads of one engine: a fixed team that runs the same loop over [0, n) cut into blocks. Which thread runs which
// block never changes a result: blocks write disjoint outputs.
//
//   ThreadPool pool({.threads = 2});
//   pool.ParallelFor(rows, /*grain=*/16, [&](int64_t begin, int64_t end) { ... });
//
// The calling thread works too. One caller at a time (CHECKed). A loop inside a block runs on the block's own thread.
//
// A loop costs a microsecond or two while loops follow each other, as they do within a forward pass: a worker that ran
// out of work watches for more for kSpinTime before it sleeps, and so does the caller while others finish. Idle threads
// sleep. Where there are more threads than CPUs, watching would only take time from those at work: they sleep at once.
// A worker that comes late, because it slept or because the CPU was taken, is not waited for.
#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <thread>
#include <vector>

#include "absl/functional/function_ref.h"

namespace baton {

struct ThreadPoolOptions {
  // The caller included. 0: one per CPU this process may run on.
  int threads = 0;
};

class ThreadPool {
 public:
  static constexpr std::chrono::microseconds kSpinTime{50};

  explicit ThreadPool(const ThreadPoolOptions& options);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  int threads() const { return threads_; }
  // Calls fn on disjoint [begin, end) of at most `grain` indices that cover [0, n). Returns when all are done. fn must
  // not throw.
  void ParallelFor(int64_t n, int64_t grain, absl::FunctionRef<void(int64_t begin, int64_t end)> fn);

 private:
  // The loop at hand. Written by the caller while no worker is inside.
  struct Loop {
    int64_t n = 0;
    int64_t grain = 1;
    const absl::FunctionRef<void(int64_t, int64_t)>* fn = nullptr;
  };

  void WorkerLoop();
  // The state once it holds a loop other than number `seen`, or kStop.
  uint64_t AwaitLoop(uint64_t seen);
  void RunBlocks();
  void WakeSleepers(int64_t blocks);
  void AwaitWorkers();
  // Watches until done(state_) is true; gives up after kSpinTime, or when others want the CPU.
  template <typename Done>
  bool Spin(Done done);

  int threads_ = 1;
  bool spin_ = true;
  Loop loop_;
  // How many workers are inside the loop, whether more may join, and the loop's number: see thread_pool.cc.
  alignas(64) std::atomic<uint64_t> state_{0};
  alignas(64) std::atomic<int64_t> next_block_{0};
  alignas(64) std::atomic<int> sleepers_{0};
  // Nobody spins before: ticks of the steady clock.
  std::atomic<int64_t> crowded_until_{0};
  std::mutex mutex_;  // of those who sleep
  std::condition_variable wake_;
  std::condition_variable done_;
  std::vector<std::thread> workers_;
};

}  // namespace baton
