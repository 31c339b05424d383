#include "common/base/thread_pool.h"

#include <sys/resource.h>

#include <atomic>
#include <limits>
#include <thread>
#include <vector>

#include "absl/time/clock.h"

#include "gtest/gtest.h"

namespace baton {
namespace {

class ThreadPoolTest : public testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, CoversEveryIndexOnce) {
  ThreadPool pool({.threads = GetParam()});
  EXPECT_EQ(pool.threads(), GetParam());
  for (int64_t n : {0, 1, 2, 7, 64, 1000}) {
    for (int64_t grain : {1, 3, 64, 5000}) {
      std::vector<std::atomic<int>> seen(n);
      pool.ParallelFor(n, grain, [&](int64_t begin, int64_t end) {
        EXPECT_LT(begin, end);
        EXPECT_LE(end - begin, grain);
        for (int64_t i = begin; i < end; ++i) ++seen[i];
      });
      for (int64_t i = 0; i < n; ++i) ASSERT_EQ(seen[i], 1) << n << " " << grain << " " << i;
    }
  }
}

TEST_P(ThreadPoolTest, ResultsOfOneLoopAreVisibleToTheNext) {
  ThreadPool pool({.threads = GetParam()});
  std::vector<int64_t> values(512, 0);
  for (int round = 0; round < 300; ++round) {
    pool.ParallelFor(values.size(), 16, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) values[i] += round;
    });
  }
  for (int64_t value : values) ASSERT_EQ(value, 300 * 299 / 2);
}

TEST_P(ThreadPoolTest, ThousandsOfTinyLoops) {
  ThreadPool pool({.threads = GetParam()});
  std::atomic<int64_t> sum{0};
  for (int round = 0; round < 5000; ++round) {
    pool.ParallelFor(1 + round % 4, 1, [&](int64_t begin, int64_t end) { sum += end - begin; });
  }
  EXPECT_EQ(sum, 5000 / 4 * (1 + 2 + 3 + 4));
}

// Workers asleep, about to sleep and watching all find the next loop.
TEST_P(ThreadPoolTest, LoopsAfterPauses) {
  ThreadPool pool({.threads = GetParam()});
  for (int round = 0; round < 200; ++round) {
    std::atomic<int64_t> sum{0};
    pool.ParallelFor(16, 1, [&](int64_t begin, int64_t) { sum += begin; });
    ASSERT_EQ(sum, 120);
    const auto resume = std::chrono::steady_clock::now() + std::chrono::microseconds(round);
    while (std::chrono::steady_clock::now() < resume) {
    }
  }
}

// The caller must be able to sleep while another thread is still at its block.
TEST_P(ThreadPoolTest, WaitsForTheSlowestBlock) {
  ThreadPool pool({.threads = GetParam()});
  for (int round = 0; round < 20; ++round) {
    std::vector<int64_t> values(8, 0);
    pool.ParallelFor(8, 1, [&](int64_t begin, int64_t) {
      const auto resume = std::chrono::steady_clock::now() + std::chrono::microseconds(begin == round % 8 ? 1000 : 0);
      while (std::chrono::steady_clock::now() < resume) {
      }
      values[begin] = begin;
    });
    for (int64_t i = 0; i < 8; ++i) ASSERT_EQ(values[i], i);
  }
}

TEST_P(ThreadPoolTest, LoopsInsideBlocksRunOnTheBlocksThread) {
  ThreadPool pool({.threads = GetParam()});
  ThreadPool other({.threads = GetParam()});
  std::vector<std::atomic<int>> seen(40);
  pool.ParallelFor(4, 1, [&](int64_t outer, int64_t) {
    const std::thread::id self = std::this_thread::get_id();
    for (ThreadPool* inner : {&pool, &other}) {
      inner->ParallelFor(5, 2, [&](int64_t begin, int64_t end) {
        EXPECT_EQ(std::this_thread::get_id(), self);
        for (int64_t i = begin; i < end; ++i) ++seen[(inner == &pool ? 0 : 20) + outer * 5 + i];
      });
    }
  });
  for (const std::atomic<int>& count : seen) EXPECT_EQ(count, 1);
}

TEST_P(ThreadPoolTest, ExtremeArguments) {
  ThreadPool pool({.threads = GetParam()});
  constexpr int64_t kMost = std::numeric_limits<int64_t>::max();
  std::atomic<int64_t> total{0};
  const auto count = [&](int64_t begin, int64_t end) { total += end - begin; };
  pool.ParallelFor(-1, 1, count);
  EXPECT_EQ(total, 0);
  pool.ParallelFor(3, 0, count);
  pool.ParallelFor(3, -5, count);
  EXPECT_EQ(total, 6);
  total = 0;
  pool.ParallelFor(kMost, kMost / 2, count);
  EXPECT_EQ(total, kMost);
  total = 0;
  pool.ParallelFor(kMost, kMost, count);
  EXPECT_EQ(total, kMost);
}

TEST(ThreadPoolIdleTest, UsesNoProcessorTime) {
  ThreadPool pool({.threads = 2});
  pool.ParallelFor(2, 1, [](int64_t, int64_t) {});
  const auto processor_seconds = [] {
    rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    const auto seconds = [](const timeval& time) { return time.tv_sec + time.tv_usec * 1e-6; };
    return seconds(usage.ru_utime) + seconds(usage.ru_stime);
  };
  // Counts time on the processor, which nothing else on the machine adds to.
  const double before = processor_seconds();
  absl::SleepFor(absl::Milliseconds(200));
  EXPECT_LT(processor_seconds() - before, 0.1);
}

TEST(ThreadPoolDeathTest, RefusesASecondCaller) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(
      {
        ThreadPool pool({.threads = 2});
        std::atomic<int> inside{0};
        std::thread second([&] {
          while (inside == 0) std::this_thread::yield();
          pool.ParallelFor(2, 1, [](int64_t, int64_t) {});
        });
        pool.ParallelFor(2, 1, [&](int64_t, int64_t) {
          inside = 1;
          while (true) std::this_thread::yield();
        });
      },
      "check failed");
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace baton
