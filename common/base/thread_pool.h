// The threads of one engine: a fixed team that runs the same loop over [0, n) cut into blocks. Which thread runs which
// block never changes a result: blocks write disjoint outputs.
//
//   ThreadPool pool({.threads = 2});
//   pool.ParallelFor(rows, /*grain=*/16, [&](int64_t begin, int64_t end) { ... });
//
// The calling thread works too. One caller at a time. Idle threads sleep.
#pragma once

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
  explicit ThreadPool(const ThreadPoolOptions& options);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;

  int threads() const { return threads_; }
  // Calls fn on disjoint [begin, end) of at most `grain` indices that cover [0, n). Returns when all are done.
  void ParallelFor(int64_t n, int64_t grain, absl::FunctionRef<void(int64_t begin, int64_t end)> fn);

 private:
  struct Job;
  void WorkerLoop();
  static void RunBlocks(Job& job);
  int threads_ = 1;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  Job* job_ = nullptr;
  uint64_t job_number_ = 0;
  int active_ = 0;
  bool stop_ = false;
  std::vector<std::thread> workers_;
};

}  // namespace baton
