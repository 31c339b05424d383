#include "common/base/thread_pool.h"

#include <algorithm>
#include <atomic>

#include "common/base/cpu.h"

namespace baton {

struct ThreadPool::Job {
  int64_t n;
  int64_t grain;
  absl::FunctionRef<void(int64_t, int64_t)> fn;
  std::atomic<int64_t> next{0};
};

ThreadPool::ThreadPool(const ThreadPoolOptions& options)
    : threads_(options.threads > 0 ? options.threads : UsableCpus()) {
  for (int i = 1; i < threads_; ++i) workers_.emplace_back([this] { WorkerLoop(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::RunBlocks(Job& job) {
  while (true) {
    const int64_t begin = job.next.fetch_add(job.grain, std::memory_order_relaxed);
    if (begin >= job.n) return;
    job.fn(begin, std::min(begin + job.grain, job.n));
  }
}

void ThreadPool::ParallelFor(int64_t n, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> fn) {
  if (n <= 0) return;
  Job job{n, std::max<int64_t>(grain, 1), fn};
  if (workers_.empty() || n <= job.grain) {
    RunBlocks(job);
    return;
  }
  {
    std::lock_guard<std::mutex> lock(mutex_);
    job_ = &job;
    ++job_number_;
  }
  wake_.notify_all();
  RunBlocks(job);
  // Workers that have not looked yet find no job and go back to sleep; those inside are waited for.
  std::unique_lock<std::mutex> lock(mutex_);
  job_ = nullptr;
  done_.wait(lock, [this] { return active_ == 0; });
}

void ThreadPool::WorkerLoop() {
  uint64_t seen = 0;
  std::unique_lock<std::mutex> lock(mutex_);
  while (true) {
    wake_.wait(lock, [&] { return stop_ || (job_ != nullptr && job_number_ != seen); });
    if (stop_) return;
    seen = job_number_;
    Job* job = job_;
    ++active_;
    lock.unlock();
    RunBlocks(*job);
    lock.lock();
    if (--active_ == 0) done_.notify_all();
  }
}

}  // namespace baton
