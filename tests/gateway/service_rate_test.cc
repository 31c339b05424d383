// Predicted waits, from what was served while there was a queue.
#include "gateway/service_rate.h"

#include <gtest/gtest.h>

namespace baton {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

const Clock::time_point kStart{};

double Seconds(absl::optional<Clock::duration> duration) {
  return duration.has_value() ? std::chrono::duration<double>(*duration).count() : -1;
}

TEST(ServiceRateTest, NothingIsPredictedFromNothing) {
  ServiceRate rate;
  EXPECT_FALSE(rate.TimeFor(1).has_value());
  rate.Served(100, kStart);
  EXPECT_FALSE(rate.TimeFor(1).has_value());
  rate.BeginWaiting(kStart);
  rate.Served(100, kStart + milliseconds(100));
  EXPECT_FALSE(rate.TimeFor(1).has_value());
}

TEST(ServiceRateTest, ASteadyPaceIsFound) {
  ServiceRate rate;
  rate.BeginWaiting(kStart);
  for (int i = 1; i <= 100; ++i) rate.Served(50, kStart + i * milliseconds(100));
  EXPECT_NEAR(Seconds(rate.TimeFor(1000)), 2.0, 0.01);
  EXPECT_EQ(Seconds(rate.TimeFor(0)), 0);
  EXPECT_EQ(Seconds(rate.TimeFor(int64_t{1} << 60)), 3600);
}

TEST(ServiceRateTest, TimeWithoutAQueueDoesNotCount) {
  ServiceRate rate;
  rate.BeginWaiting(kStart);
  for (int i = 1; i <= 20; ++i) rate.Served(50, kStart + i * milliseconds(100));
  rate.EndWaiting();
  // An hour of nothing: a queue would still be served at 500 tokens a second.
  rate.BeginWaiting(kStart + seconds(3600));
  EXPECT_NEAR(Seconds(rate.TimeFor(1000)), 2.0, 0.01);
}

TEST(ServiceRateTest, TheOldFades) {
  ServiceRate rate;
  rate.BeginWaiting(kStart);
  for (int i = 1; i <= 100; ++i) rate.Served(50, kStart + i * milliseconds(100));
  for (int i = 1; i <= 600; ++i) rate.Served(500, kStart + seconds(10) + i * milliseconds(100));
  EXPECT_NEAR(Seconds(rate.TimeFor(5000)), 1.0, 0.02);
}

}  // namespace
}  // namespace baton
