#include "common/base/thread_pool.h"

#include <sched.h>

#include <algorithm>

#include "common/base/cpu.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

// Fields of the state word. Workers join a loop by adding 1 while it is open; the caller closes it when no block is
// left, and returns when all who joined have left. So a loop's fields outlive everyone who reads them, and nobody waits
// for a worker that never came.
constexpr uint64_t kInside = 0xffff;
constexpr uint64_t kOpen = uint64_t{1} << 16;
constexpr uint64_t kCallerSleeps = uint64_t{1} << 17;
constexpr uint64_t kStop = uint64_t{1} << 18;
constexpr int kNumberShift = 20;

uint64_t Number(uint64_t state) { return state >> kNumberShift; }

using Clock = std::chrono::steady_clock;

// A spinning thread looks at the clock, and offers its CPU to others, once in so many pauses: about a microsecond.
constexpr int kPausesPerLook = 16;
// Who comes back this late was off the CPU: somebody else wants it (prefill and decode may share a machine, each with
// as many threads as there are CPUs). Then a thread that spins holds up one that works, so nobody spins for a while.
constexpr std::chrono::microseconds kGap{15};
constexpr std::chrono::milliseconds kCrowdedTime{5};

// True while this thread runs a block, of any pool.
thread_local bool inside_block = false;

void Pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace

ThreadPool::ThreadPool(const ThreadPoolOptions& options)
    : threads_(options.threads > 0 ? options.threads : UsableCpus()), spin_(threads_ <= UsableCpus()) {
  BATON_CHECK(threads_ <= static_cast<int>(kInside));
  for (int i = 1; i < threads_; ++i) workers_.emplace_back([this] { WorkerLoop(); });
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    state_.fetch_or(kStop);
  }
  wake_.notify_all();
  for (std::thread& worker : workers_) worker.join();
}

void ThreadPool::ParallelFor(int64_t n, int64_t grain, absl::FunctionRef<void(int64_t, int64_t)> fn) {
  if (n <= 0) return;
  grain = std::clamp<int64_t>(grain, 1, n);
  if (workers_.empty() || n == grain || inside_block) {
    for (int64_t begin = 0; begin < n; begin += std::min(grain, n - begin))
      fn(begin, begin + std::min(grain, n - begin));
    return;
  }
  const uint64_t before = state_.load(std::memory_order_relaxed);
  BATON_CHECK((before & (kOpen | kInside)) == 0);  // a second caller
  loop_ = {n, grain, &fn};
  next_block_.store(0, std::memory_order_relaxed);
  state_.store((Number(before) + 1) << kNumberShift | kOpen);
  WakeSleepers((n - 1) / grain + 1);
  RunBlocks();
  if ((state_.fetch_and(~kOpen, std::memory_order_acq_rel) & kInside) != 0) AwaitWorkers();
}

void ThreadPool::RunBlocks() {
  const Loop loop = loop_;
  const int64_t blocks = (loop.n - 1) / loop.grain + 1;
  inside_block = true;
  while (true) {
    const int64_t block = next_block_.fetch_add(1, std::memory_order_relaxed);
    if (block >= blocks) break;
    const int64_t begin = block * loop.grain;
    (*loop.fn)(begin, begin + std::min(loop.grain, loop.n - begin));
  }
  inside_block = false;
}

void ThreadPool::WakeSleepers(int64_t blocks) {
  // Pairs with AwaitLoop: either it sees the new state, or we see the sleeper.
  const int sleepers = sleepers_.load();
  const int64_t awake = static_cast<int64_t>(workers_.size()) - sleepers;
  const int64_t wanted = std::min<int64_t>(blocks - 1 - awake, sleepers);
  if (wanted <= 0) return;
  // Whoever counted itself holds the mutex until it waits.
  { std::lock_guard<std::mutex> lock(mutex_); }
  if (wanted == sleepers) return wake_.notify_all();
  for (int64_t i = 0; i < wanted; ++i) wake_.notify_one();
}

void ThreadPool::AwaitWorkers() {
  const auto left = [](uint64_t state) { return (state & kInside) == 0; };
  if (Spin(left)) return;
  std::unique_lock<std::mutex> lock(mutex_);
  if (left(state_.fetch_or(kCallerSleeps, std::memory_order_acq_rel))) return;
  done_.wait(lock, [&] { return left(state_.load(std::memory_order_acquire)); });
}

void ThreadPool::WorkerLoop() {
  uint64_t seen = 0;
  while (true) {
    uint64_t state = AwaitLoop(seen);
    if ((state & kStop) != 0) return;
    if (!state_.compare_exchange_strong(state, state + 1, std::memory_order_acq_rel)) continue;
    seen = Number(state);
    RunBlocks();
    const uint64_t left = state_.fetch_sub(1, std::memory_order_acq_rel) - 1;
    if ((left & kInside) == 0 && (left & kCallerSleeps) != 0) {
      { std::lock_guard<std::mutex> lock(mutex_); }
      done_.notify_one();
    }
  }
}

uint64_t ThreadPool::AwaitLoop(uint64_t seen) {
  uint64_t found = 0;
  const auto ready = [&](uint64_t state) {
    found = state;
    return (state & kStop) != 0 || ((state & kOpen) != 0 && Number(state) != seen);
  };
  if (Spin(ready)) return found;
  std::unique_lock<std::mutex> lock(mutex_);
  sleepers_.fetch_add(1);
  wake_.wait(lock, [&] { return ready(state_.load()); });
  sleepers_.fetch_sub(1);
  return found;
}

template <typename Done>
bool ThreadPool::Spin(Done done) {
  if (done(state_.load(std::memory_order_acquire))) return true;
  if (!spin_) return false;
  const Clock::time_point start = Clock::now();
  if (start.time_since_epoch().count() < crowded_until_.load(std::memory_order_relaxed)) return false;
  Clock::time_point looked = start;
  while (true) {
    for (int i = 0; i < kPausesPerLook; ++i) {
      Pause();
      if (done(state_.load(std::memory_order_acquire))) return true;
    }
    sched_yield();
    const Clock::time_point now = Clock::now();
    if (now - looked >= kGap) {
      crowded_until_.store((now + kCrowdedTime).time_since_epoch().count(), std::memory_order_relaxed);
      return done(state_.load(std::memory_order_acquire));
    }
    if (now - start >= kSpinTime) return done(state_.load(std::memory_order_acquire));
    looked = now;
  }
}

}  // namespace baton
