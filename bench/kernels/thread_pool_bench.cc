// What a parallel loop costs beyond its work: as many follow each other in a forward pass as it has layers times ten.
#include <benchmark/benchmark.h>

#include <atomic>
#include <chrono>

#include "common/base/thread_pool.h"

namespace baton {
namespace {

void Work(std::chrono::nanoseconds time) {
  const auto end = std::chrono::steady_clock::now() + time;
  while (std::chrono::steady_clock::now() < end) {
  }
}

// One block a thread, each of so many nanoseconds: the loop's cost is what exceeds them.
void BM_ParallelFor(benchmark::State& state) {
  ThreadPool pool({.threads = static_cast<int>(state.range(0))});
  const std::chrono::nanoseconds work(state.range(1));
  for (auto _ : state) {
    pool.ParallelFor(pool.threads(), 1, [&](int64_t, int64_t) { Work(work); });
  }
}
BENCHMARK(BM_ParallelFor)->ArgsProduct({{1, 2, 4}, {0, 2000, 20000}})->UseRealTime();

// The plain reference: the same blocks on the calling thread.
void BM_ParallelForReference(benchmark::State& state) {
  const std::chrono::nanoseconds work(state.range(1));
  for (auto _ : state) {
    for (int64_t block = 0; block < state.range(0); ++block) Work(work);
  }
}
BENCHMARK(BM_ParallelForReference)->ArgsProduct({{1, 2, 4}, {0, 2000, 20000}})->UseRealTime();

}  // namespace
}  // namespace baton
