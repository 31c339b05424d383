// What bounds a request's failover: attempts, the time without progress, the time without workers, circuit breakers.
#include <atomic>
#include <chrono>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/gateway/failover_fixture.h"

namespace baton {
namespace {

using ::testing::HasSubstr;

TEST_F(FailoverTest, FailuresInARowAreBounded) {
  std::vector<Point> points(10, Point::kReserve);
  points[0] = Point::kDecode;
  FailAt(points);
  auto client = Stream(SimpleRequest(12));
  const absl::Status status = Finish(*client);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("after 3 tokens and 6 failed attempts"));
  EXPECT_FALSE(client->finished.has_value());
  EXPECT_EQ(client->ids.size(), 3u);
  EXPECT_TRUE(Idle());
}

TEST_F(FailoverTest, FailuresAreBoundedInAll) {
  FailAt(std::vector<Point>(100, Point::kDecode), 1);
  const absl::Status status = Finish(*Stream(SimpleRequest(200)));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_LE(decode_requests().size(), 40u);
  EXPECT_TRUE(Idle());
}

class ImpatientFailoverTest : public FailoverTest {
 protected:
  void Configure() override {
    options_.stall_timeout = std::chrono::milliseconds(100);
    options_.resume_timeout = std::chrono::milliseconds(200);
  }
};

TEST_F(ImpatientFailoverTest, AWorkerThatDoesNotAnswerIsGivenUp) {
  std::atomic<int> calls = 0;
  decode_.SetScript([&](const std::shared_ptr<FakeDecode::Call>&) { ++calls; });
  auto client = Stream(SimpleRequest());
  const absl::Status status = Finish(*client);
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), "STALLED");
  EXPECT_EQ(calls, 3);
  EXPECT_TRUE(Idle());
}

class PatientFailoverTest : public FailoverTest {
 protected:
  void Configure() override {
    options_.stall_timeout = std::chrono::milliseconds(700);
    options_.max_attempts = 1;
  }
};

TEST_F(PatientFailoverTest, OneThatWorksMayTakeItsTime) {
  // It reports its load and gets on: whose turn it is, is its own business.
  prefill_.SetScript([](const std::shared_ptr<FakePrefill::Call>&) {});
  std::atomic<int> calls = 0;
  decode_.SetScript([&](const std::shared_ptr<FakeDecode::Call>& call) {
    ++calls;
    call->Push(Reserve(decode_, 1));
  });
  auto client = Stream(SimpleRequest(), std::chrono::milliseconds(5000));
  std::atomic<bool> over = false;
  std::thread work([&] {
    while (!over) {
      prefill_.load().AddTokens(1);
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  });
  EXPECT_TRUE(absl::IsDeadlineExceeded(Finish(*client)));
  over = true;
  work.join();
  EXPECT_EQ(calls, 1);
}

TEST_F(ImpatientFailoverTest, OneThatHasSaidAllButGoodbyeIsNotMissed) {
  decode_.SetScript([&](const std::shared_ptr<FakeDecode::Call>& call) {
    call->Push(Reserve(decode_, 1));
    call->Push(Tokens(kPromptTokens + 1, {201}));
  });
  auto client = Stream(SimpleRequest(2));
  const absl::Status status = Finish(*client);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(client->ids.size(), 2u);
  EXPECT_EQ(client->finished->reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(prefill_requests().size(), 1u);
  EXPECT_TRUE(Idle());
}

class OneAttemptTest : public ImpatientFailoverTest {
 protected:
  void Configure() override {
    ImpatientFailoverTest::Configure();
    options_.max_attempts = 1;
  }
};

TEST_F(OneAttemptTest, OneThatReportsAndGetsNowhereIsGivenUpLater) {
  prefill_.SetScript([](const std::shared_ptr<FakePrefill::Call>&) {});
  const absl::Status status = Stream(SimpleRequest())->Finish();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), "STALLED");
  EXPECT_THAT(std::string(status.message()), HasSubstr("prefill worker"));
  EXPECT_TRUE(Idle());
}

TEST_F(ImpatientFailoverTest, WaitingForOtherWorkersIsBounded) {
  last_words_ = [&](FakeDecode::Call&) { decode_.load().SetDraining(); };
  // Until the gateway has heard that there is no worker any more, attempts fail; then it waits in vain.
  FailAt(std::vector<Point>(100, Point::kDecode));
  failure_ = Unavailable("DRAINING");
  const absl::Status status = Finish(*Stream(SimpleRequest(1000)));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(Idle());
}

class BreakerTest : public FailoverTest {
 protected:
  void Configure() override {
    options_.breaker.failures = 2;
    options_.breaker.first_pause = std::chrono::hours(1);
    options_.max_attempts = 2;
  }
};

TEST_F(BreakerTest, AWorkerThatKeepsFailingGetsNoNewRequests) {
  FailAt({Point::kReserve, Point::kReserve, Point::kReserve});
  EXPECT_TRUE(absl::IsUnavailable(Stream(SimpleRequest())->Finish()));
  const absl::Status status = Stream(SimpleRequest())->Finish();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), "NO_WORKERS");
  EXPECT_THAT(std::string(status.message()), HasSubstr("1 decode paused after failures"));
  EXPECT_EQ(decode_requests().size(), 2u);
}

}  // namespace
}  // namespace baton
