// Generation on workers that fail or are full: attempts, the queue, what the client is told. Cancellation, readers and
// draining: generation_cancel_test.cc. Workers that break the protocol: worker_breach_test.cc. Workers that go and
// come: worker_choice_test.cc. Going on after a worker was lost: failover_test.cc.
#include <atomic>
#include <chrono>
#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/gateway/gateway_fixture.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class FailureTest : public PairTest {};

TEST_F(FailureTest, AReservationThatFailsIsMadeAgain) {
  auto client = Stream(SimpleRequest(2));
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  decode->Finish(Unavailable());
  decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  decode->Push(Reserve(decode_, 1));
  auto prefill = prefill_.Take();
  ASSERT_NE(prefill, nullptr);
  // A failing prefill worker frees the reservation before another attempt.
  prefill->Finish(Unavailable());
  EXPECT_TRUE(decode->WaitUntilOver());
  decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  decode->Push(Reserve(decode_, 2));
  prefill = prefill_.Take();
  ASSERT_NE(prefill, nullptr);
  EXPECT_EQ(prefill->request.handoff().reservation_id(), 2u);
  prefill->Push(First(200));
  prefill->Push(PrefillDone());
  prefill->Finish();
  decode->Push(Tokens(5, {201}));
  decode->Push(DecodeDone(worker::v1::LENGTH));
  decode->Finish();
  ASSERT_TRUE(client->Finish().ok());
  EXPECT_THAT(client->ids, ElementsAre(200, 201));
}

TEST_F(FailureTest, AttemptsAreBounded) {
  std::atomic<int> calls = 0;
  decode_.SetScript([&](const std::shared_ptr<FakeDecode::Call>& call) {
    ++calls;
    call->Finish(Unavailable("DRAINING"));
  });
  auto client = Stream(SimpleRequest());
  const absl::Status status = client->Finish();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), "DRAINING");
  EXPECT_THAT(std::string(status.message()), HasSubstr(decode_.address()));
  EXPECT_EQ(calls, 3);
  EXPECT_TRUE(Idle());
}

TEST_F(FailureTest, APrefillWorkerLostAfterTheHandoffIsNotMissed) {
  Running running = Begin(SimpleRequest(3));
  running.prefill->Push(First(200));
  running.decode->Push(Tokens(5, {201}));
  ASSERT_TRUE(running.client->Next().has_value());
  ASSERT_TRUE(running.client->Next().has_value());
  running.prefill->Finish(Unavailable());
  EXPECT_TRUE(running.prefill->WaitUntilOver());
  running.decode->Push(Tokens(6, {202}));
  running.decode->Push(DecodeDone(worker::v1::LENGTH));
  running.decode->Finish();
  EXPECT_TRUE(running.client->Finish().ok());
  EXPECT_THAT(running.client->ids, ElementsAre(202));
}

TEST_F(FailureTest, ACompleteSequenceNeedsNoGoodbye) {
  // The decode worker dies between its last token and its Done.
  Running running = BeginDecoding(SimpleRequest(2));
  running.decode->Push(Tokens(5, {201}));
  running.decode->Finish(Unavailable());
  EXPECT_TRUE(running.client->Finish().ok());
  EXPECT_EQ(running.client->finished->reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(FailureTest, ACorruptStateIsDataLoss) {
  Running running = Begin(SimpleRequest());
  running.decode->Finish(ToGrpcStatus(WithReason(absl::DataLossError("bad checksum"), "STATE_CORRUPT")));
  const absl::Status status = running.client->Finish();
  EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  EXPECT_EQ(ErrorReason(status), "STATE_CORRUPT");
  EXPECT_TRUE(running.prefill->WaitUntilOver());
}

TEST_F(FailureTest, AWorkersOwnLimitReachesTheClient) {
  auto client = Stream(SimpleRequest());
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  decode->Finish(ToGrpcStatus(WithReason(absl::InvalidArgumentError("too long"), "PROMPT_TOO_LONG")));
  const absl::Status status = client->Finish();
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_EQ(ErrorReason(status), "PROMPT_TOO_LONG");
}

// --- Full workers and queues.

grpc::Status DecodeFull() {
  return ToGrpcStatus(WithRetryAfter(absl::ResourceExhaustedError("no room"), absl::Seconds(1), "DECODE_MEMORY_FULL"));
}

TEST_F(FailureTest, AFullDecodeWorkerIsWaitedFor) {
  auto client = Stream(SimpleRequest(2));
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  decode->Finish(DecodeFull());
  // Asked again after its next report; full for longer than there are attempts.
  for (int i = 0; i < 4; ++i) {
    decode = decode_.Take();
    ASSERT_NE(decode, nullptr);
    if (i < 3) decode->Finish(DecodeFull());
  }
  decode->Push(Reserve(decode_, 1));
  auto prefill = prefill_.Take();
  ASSERT_NE(prefill, nullptr);
  prefill->Push(First(200));
  decode->Push(Tokens(5, {201}));
  decode->Push(DecodeDone(worker::v1::LENGTH));
  EXPECT_TRUE(client->Finish().ok());
}

class ShortQueueTest : public FailureTest {
 protected:
  void SetUp() override {
    options_.admission.max_running = 1;
    options_.admission.max_queue = 1;
    options_.admission.queue_timeout = std::chrono::seconds(300);
    FailureTest::SetUp();
  }
};

TEST_F(ShortQueueTest, OverflowIsRefusedAndTheQueueMovesOn) {
  Running first = BeginDecoding(SimpleRequest());
  auto second = Stream(SimpleRequest());
  ASSERT_TRUE(Eventually([&] { return Status().queued_requests() == 1; }));
  const absl::Status status = Stream(SimpleRequest())->Finish();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(ErrorReason(status), "QUEUE_FULL");
  EXPECT_GT(RetryDelay(status), absl::ZeroDuration());

  first.client->context.TryCancel();
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  second->context.TryCancel();
  EXPECT_TRUE(decode->WaitUntilOver());
  EXPECT_TRUE(Idle());
}

TEST_F(ShortQueueTest, CancelInTheQueueLeavesIt) {
  Running first = BeginDecoding(SimpleRequest());
  auto second = Stream(SimpleRequest());
  ASSERT_TRUE(Eventually([&] { return Status().queued_requests() == 1; }));
  second->context.TryCancel();
  ASSERT_TRUE(Eventually([&] { return Status().queued_requests() == 0; }));
  EXPECT_EQ(Status().running_requests(), 1);
  EXPECT_EQ(decode_.untaken(), 0u);
}

class HastyQueueTest : public FailureTest {
 protected:
  void SetUp() override {
    options_.admission.queue_timeout = std::chrono::milliseconds(50);
    FailureTest::SetUp();
  }
};

TEST_F(HastyQueueTest, WaitingIsBounded) {
  decode_.SetScript([](const std::shared_ptr<FakeDecode::Call>& call) { call->Finish(DecodeFull()); });
  const absl::Status status = Stream(SimpleRequest())->Finish();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(ErrorReason(status), "QUEUE_TIMEOUT");
  EXPECT_GT(RetryDelay(status), absl::ZeroDuration());
  EXPECT_TRUE(Idle());
}

}  // namespace
}  // namespace baton
