#include "gateway/timers.h"

#include <atomic>
#include <future>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace baton {
namespace {

using ::testing::ElementsAre;

TEST(TimersTest, RunsInOrderOfTime) {
  Timers timers;
  std::vector<int> order;
  std::promise<void> done;
  // Set from the timers' thread, so that none of them can run before all are set.
  timers.Post([&] {
    const Clock::time_point now = Clock::now();
    timers.At(now + std::chrono::milliseconds(3), [&] {
      order.push_back(3);
      done.set_value();
    });
    timers.At(now + std::chrono::milliseconds(1), [&] { order.push_back(1); });
    timers.At(now + std::chrono::milliseconds(2), [&] { order.push_back(2); });
  });
  done.get_future().wait();
  EXPECT_THAT(order, ElementsAre(1, 2, 3));
}

TEST(TimersTest, PostedCallbacksKeepTheirOrderAndMayPostMore) {
  Timers timers;
  std::vector<int> order;
  std::promise<void> done;
  // All posts come from the timers' thread, so that none of them can run before the next one is posted.
  timers.Post([&] {
    timers.Post([&] {
      order.push_back(2);
      timers.Post([&] {
        order.push_back(4);
        done.set_value();
      });
    });
    timers.Post([&] { order.push_back(3); });
    order.push_back(1);
  });
  done.get_future().wait();
  EXPECT_THAT(order, ElementsAre(1, 2, 3, 4));
}

TEST(TimersTest, CancelledOnesNeverRun) {
  Timers timers;
  std::atomic<bool> ran = false;
  const Timers::Id id = timers.After(std::chrono::milliseconds(1000), [&] { ran = true; });
  timers.Cancel(id);
  timers.Cancel(id);
  timers.Stop();
  EXPECT_FALSE(ran);
}

TEST(TimersTest, StopDropsWhatIsPending) {
  auto held = std::make_shared<int>(1);
  Timers timers;
  timers.After(std::chrono::hours(1), [held] {});
  EXPECT_EQ(held.use_count(), 2);
  timers.Stop();
  EXPECT_EQ(held.use_count(), 1);
  timers.Post([held] {});
  EXPECT_EQ(held.use_count(), 1);
}

TEST(TimersTest, CancelReleasesWhatTheCallbackHolds) {
  Timers timers;
  auto held = std::make_shared<int>(1);
  const Timers::Id id = timers.After(std::chrono::hours(1), [held] {});
  timers.Cancel(id);
  EXPECT_EQ(held.use_count(), 1);
}

}  // namespace
}  // namespace baton
