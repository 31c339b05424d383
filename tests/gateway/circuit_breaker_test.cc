#include "gateway/circuit_breaker.h"

#include <gtest/gtest.h>

namespace baton {
namespace {

using std::chrono::seconds;

CircuitBreakerOptions ThreeFailures() {
  CircuitBreakerOptions options;
  options.failures = 3;
  options.first_pause = seconds(1);
  options.largest_pause = seconds(3);
  return options;
}

class CircuitBreakerTest : public ::testing::Test {
 protected:
  void Open() {
    EXPECT_FALSE(breaker_.Failed(start_));
    EXPECT_FALSE(breaker_.Failed(start_));
    EXPECT_TRUE(breaker_.Failed(start_));
  }
  const Clock::time_point start_ = Clock::now();
  CircuitBreaker breaker_{ThreeFailures()};
};

TEST_F(CircuitBreakerTest, OpensAfterFailuresInARow) {
  breaker_.Failed(start_);
  breaker_.Failed(start_);
  breaker_.Worked();
  breaker_.Failed(start_);
  breaker_.Failed(start_);
  EXPECT_TRUE(breaker_.Allows(start_));
  EXPECT_FALSE(breaker_.Begin());
  EXPECT_TRUE(breaker_.Failed(start_));
  EXPECT_FALSE(breaker_.Allows(start_));
  EXPECT_TRUE(breaker_.open());
}

TEST_F(CircuitBreakerTest, LetsOneProbeThroughAfterThePause) {
  Open();
  EXPECT_FALSE(breaker_.Allows(start_ + std::chrono::milliseconds(999)));
  ASSERT_TRUE(breaker_.Allows(start_ + seconds(1)));
  EXPECT_TRUE(breaker_.Begin());
  EXPECT_FALSE(breaker_.Allows(start_ + seconds(1)));
  breaker_.Worked();
  EXPECT_TRUE(breaker_.Allows(start_ + seconds(1)));
  EXPECT_FALSE(breaker_.open());
}

TEST_F(CircuitBreakerTest, ThePauseDoublesUpToItsLimit) {
  Open();
  Clock::time_point now = start_;
  for (const int pause : {1, 2, 3, 3}) {
    EXPECT_FALSE(breaker_.Allows(now + seconds(pause) - std::chrono::milliseconds(1))) << pause;
    now += seconds(pause);
    ASSERT_TRUE(breaker_.Allows(now)) << pause;
    breaker_.Begin();
    EXPECT_FALSE(breaker_.Failed(now));
  }
}

TEST_F(CircuitBreakerTest, LateFailuresOfOldRequestsDoNotProlongThePause) {
  Open();
  for (int i = 0; i < 10; ++i) breaker_.Failed(start_ + std::chrono::milliseconds(500));
  EXPECT_TRUE(breaker_.Allows(start_ + seconds(1)));
}

TEST_F(CircuitBreakerTest, AnAbandonedProbeMakesWayForAnother) {
  Open();
  breaker_.Begin();
  EXPECT_FALSE(breaker_.Allows(start_ + seconds(1)));
  breaker_.Abandoned();
  EXPECT_TRUE(breaker_.Allows(start_ + seconds(1)));
}

TEST_F(CircuitBreakerTest, TellsHowMuchOfThePauseIsLeft) {
  EXPECT_EQ(breaker_.PauseLeft(start_), Clock::duration::zero());
  Open();
  EXPECT_EQ(breaker_.PauseLeft(start_ + std::chrono::milliseconds(400)), std::chrono::milliseconds(600));
  EXPECT_EQ(breaker_.PauseLeft(start_ + seconds(5)), Clock::duration::zero());
  EXPECT_TRUE(breaker_.open());
}

TEST(CircuitBreakerOffTest, NeverOpens) {
  CircuitBreakerOptions options;
  options.failures = 0;
  CircuitBreaker breaker(options);
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(breaker.Failed(Clock::now()));
  EXPECT_TRUE(breaker.Allows(Clock::now()));
}

}  // namespace
}  // namespace baton
