// Generation when something goes wrong: cancellation at every stage, retries, full workers, workers that break the
// protocol, slow readers, draining. Workers that go and come: worker_choice_test.cc. Going on after a worker was lost:
// failover_test.cc.
#include <atomic>
#include <future>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/gateway/gateway_fixture.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

grpc::Status DecodeFull() {
  return ToGrpcStatus(WithRetryAfter(absl::ResourceExhaustedError("no room"), absl::Seconds(1), "DECODE_MEMORY_FULL"));
}

class FailureTest : public PairTest {
 protected:
  // Nothing of a request is left anywhere in the gateway.
  bool Idle() {
    return Eventually([&] {
      const v1::GetStatusResponse status = Status();
      return status.running_requests() == 0 && status.queued_requests() == 0 && gateway_->calls() == 0;
    });
  }
  // A gateway that still works after whatever happened before.
  void ExpectServes() {
    Running running = Begin(SimpleRequest(2));
    running.prefill->Push(First(200));
    running.prefill->Push(PrefillDone());
    running.prefill->Finish();
    running.decode->Push(Tokens(5, {201}));
    running.decode->Push(DecodeDone(worker::v1::LENGTH));
    running.decode->Finish();
    EXPECT_TRUE(running.client->Finish().ok());
    EXPECT_THAT(running.client->ids, ElementsAre(200, 201));
  }
};

// --- Cancellation.

TEST_F(FailureTest, CancelWhileReserving) {
  auto client = Stream(SimpleRequest());
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  client->context.TryCancel();
  EXPECT_TRUE(decode->WaitUntilOver());
  EXPECT_TRUE(decode->cancelled());
  EXPECT_TRUE(absl::IsCancelled(client->Finish()));
  EXPECT_TRUE(Idle());
  EXPECT_EQ(prefill_.untaken(), 0u);
}

TEST_F(FailureTest, CancelWhilePrefilling) {
  Running running = Begin(SimpleRequest());
  running.client->context.TryCancel();
  EXPECT_TRUE(running.decode->WaitUntilOver());
  EXPECT_TRUE(running.prefill->WaitUntilOver());
  EXPECT_TRUE(running.decode->cancelled());
  EXPECT_TRUE(running.prefill->cancelled());
  EXPECT_TRUE(Idle());
}

TEST_F(FailureTest, CancelWhileHandingOff) {
  // The first token is out, the state is still on its way.
  Running running = Begin(SimpleRequest());
  running.prefill->Push(First(200));
  ASSERT_TRUE(running.client->Next().has_value());
  running.client->context.TryCancel();
  EXPECT_TRUE(running.decode->WaitUntilOver());
  EXPECT_TRUE(running.prefill->WaitUntilOver());
  EXPECT_TRUE(running.prefill->cancelled());
  EXPECT_TRUE(Idle());
}

TEST_F(FailureTest, CancelWhileDecoding) {
  Running running = BeginDecoding(SimpleRequest());
  running.decode->Push(Tokens(5, {201}));
  ASSERT_TRUE(running.client->Next().has_value());
  running.client->context.TryCancel();
  EXPECT_TRUE(running.decode->WaitUntilOver());
  EXPECT_TRUE(running.decode->cancelled());
  EXPECT_TRUE(Idle());
  ExpectServes();
}

TEST_F(FailureTest, AnUnaryCallIsCancelledToo) {
  grpc::ClientContext context;
  v1::GenerateResponse response;
  grpc::Status status;
  std::thread caller([&] { status = stub_->Generate(&context, SimpleRequest(), &response); });
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  context.TryCancel();
  caller.join();
  EXPECT_EQ(status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(decode->WaitUntilOver());
  EXPECT_TRUE(Idle());
}

TEST_F(FailureTest, DeadlineEndsBothWorkerCalls) {
  auto client = Stream(SimpleRequest(), std::chrono::milliseconds(1500));
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  decode->Push(Reserve(decode_, 1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(client->Finish()));
  EXPECT_TRUE(decode->WaitUntilOver());
  EXPECT_TRUE(Idle());
}

// --- Attempts.

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

// --- Broken workers: INTERNAL, never a crash, and the next request is served.

struct Breach {
  const char* name;
  std::function<void(const FakeDecode&, FakeDecode::Call&, FakePrefill::Call&)> play;
};

class BreachTest : public FailureTest, public ::testing::WithParamInterface<Breach> {};

TEST_P(BreachTest, IsInternal) {
  v1::GenerateRequest request = SimpleRequest(8);
  request.mutable_sampling()->set_temperature(1);
  Running running = Begin(request);
  GetParam().play(decode_, *running.decode, *running.prefill);
  const absl::Status status = running.client->Finish();
  EXPECT_TRUE(absl::IsInternal(status)) << status;
  EXPECT_FALSE(running.client->finished.has_value());
  EXPECT_TRUE(running.decode->WaitUntilOver());
  EXPECT_TRUE(running.prefill->WaitUntilOver());
  EXPECT_TRUE(Idle());
  ExpectServes();
}

INSTANTIATE_TEST_SUITE_P(
    Breaches, BreachTest,
    ::testing::Values(
        Breach{"Gap", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push(Tokens(6, {201}));
               }},
        Breach{"Repeat", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push(Tokens(5, {201}));
                 decode.Push(Tokens(5, {201}));
               }},
        Breach{"FirstTokenAgain", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push(Tokens(4, {200}));
               }},
        Breach{"IdTooLarge", [](const FakeDecode&, auto&, auto& prefill) { prefill.Push(First(1 << 30)); }},
        Breach{"IdNegative", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push(Tokens(5, {-1}));
               }},
        Breach{"EmptyChunk", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push(Tokens(5, {}));
               }},
        Breach{"TooManyTokens", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push(Tokens(5, {201, 202, 203, 204, 205, 206, 207, 208}));
               }},
        Breach{"TwoFirstTokens", [](const FakeDecode&, auto&, auto& prefill) {
                 prefill.Push(First(200));
                 prefill.Push(First(200));
               }},
        Breach{"SecondReservation", [](const FakeDecode& worker, auto& decode, auto&) {
                 decode.Push(Reserve(worker, 2));
               }},
        Breach{"ScoresNobodyAskedFor", [](const FakeDecode&, auto&, auto& prefill) {
                 prefill.Push(Scores(1, {100}));
               }},
        Breach{"DecodeEndsSilently", [](const FakeDecode&, auto& decode, auto&) { decode.Finish(); }},
        Breach{"PrefillEndsSilently", [](const FakeDecode&, auto&, auto& prefill) { prefill.Finish(); }},
        Breach{"StopWithoutStopToken", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push(DecodeDone(worker::v1::STOP_TOKEN));
               }},
        Breach{"UnknownEvent", [](const FakeDecode&, auto& decode, auto& prefill) {
                 prefill.Push(First(200));
                 decode.Push({});
               }},
        Breach{"UnknownStatus", [](const FakeDecode&, auto&, auto& prefill) {
                 prefill.Finish(grpc::Status(grpc::StatusCode::UNKNOWN, "?"));
               }}),
    [](const auto& info) { return std::string(info.param.name); });

// --- Readers.

class SlowReaderTest : public FailureTest {
 protected:
  void SetUp() override {
    options_.max_queued_events = 16;
    FailureTest::SetUp();
    // A client whose connection takes in little ahead of its reader.
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, 0);
    stub_ = v1::Inference::NewStub(
        grpc::CreateCustomChannel(gateway_->address(), grpc::InsecureChannelCredentials(), arguments));
  }
};

TEST_F(SlowReaderTest, EndsAloneAndWithAReason) {
  v1::GenerateRequest request = SimpleRequest(5000);
  request.mutable_output()->set_top_logprobs(20);
  Running slow = Begin(request);
  Running other = Begin(SimpleRequest(3));

  // More than any buffer between the two takes: 20 alternatives a token, while the client reads nothing.
  const auto logprobs = [](worker::v1::TokenLogprobs* out) {
    for (int i = 0; i < 20; ++i) {
      out->add_top_ids(200 + i);
      out->add_top_logprobs(-1);
    }
  };
  worker::v1::PrefillEvent first = First(200);
  logprobs(first.mutable_first_token()->mutable_logprobs());
  slow.prefill->Push(first);
  for (int64_t i = 1; i < 4900; ++i) {
    worker::v1::DecodeEvent event = Tokens(kPromptTokens + i, {200});
    logprobs(event.mutable_progress()->mutable_tokens(0)->add_logprobs());
    if (!slow.decode->Push(event)) break;
  }
  EXPECT_TRUE(slow.decode->WaitUntilOver());

  other.prefill->Push(First(200));
  other.decode->Push(Tokens(5, {201, 202}));
  other.decode->Push(DecodeDone(worker::v1::LENGTH));
  EXPECT_TRUE(other.client->Finish().ok());

  const absl::Status status = slow.client->Finish();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_EQ(ErrorReason(status), "SLOW_READER");
  EXPECT_FALSE(slow.client->finished.has_value());
  EXPECT_TRUE(Idle());
}

// --- Draining.

TEST_F(FailureTest, DrainFinishesWhatRunsAndRefusesTheRest) {
  Running running = BeginDecoding(SimpleRequest(2));
  std::future<bool> drained = std::async(std::launch::async, [&] { return gateway_->Drain(absl::Seconds(300)); });
  absl::Status refused;
  ASSERT_TRUE(Eventually([&] {
    grpc::ClientContext context;
    v1::TokenizeRequest request;
    request.mutable_text()->set_text("x");
    v1::TokenizeResponse response;
    refused = FromGrpcStatus(stub_->Tokenize(&context, request, &response));
    return !refused.ok();
  }));
  EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
  EXPECT_EQ(ErrorReason(refused), "DRAINING");
  running.decode->Push(Tokens(5, {201}));
  running.decode->Push(DecodeDone(worker::v1::LENGTH));
  EXPECT_TRUE(running.client->Finish().ok());
  EXPECT_TRUE(drained.get());
}

TEST_F(FailureTest, WhatOutlivesTheGracePeriodIsToldWhy) {
  Running running = BeginDecoding(SimpleRequest());
  std::future<bool> drained = std::async(std::launch::async, [&] { return gateway_->Drain(absl::Milliseconds(10)); });
  const absl::Status status = running.client->Finish();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), "DRAINING");
  EXPECT_FALSE(drained.get());
  EXPECT_TRUE(running.decode->WaitUntilOver());
}

// --- Many at once.

TEST_F(FailureTest, ManyStreamsAtOnce) {
  decode_.SetScript([this](const std::shared_ptr<FakeDecode::Call>& call) {
    call->Push(Reserve(decode_, 1));
    for (int64_t i = 1; i < 8; ++i) call->Push(Tokens(kPromptTokens + i, {static_cast<int32_t>(200 + i)}));
    call->Push(DecodeDone(worker::v1::LENGTH));
    call->Finish();
  });
  prefill_.SetScript([](const std::shared_ptr<FakePrefill::Call>& call) {
    call->Push(First(200));
    call->Push(PrefillDone());
    call->Finish();
  });
  std::vector<std::thread> clients;
  std::atomic<int> complete = 0;
  for (int i = 0; i < 16; ++i) {
    clients.emplace_back([&, i] {
      for (int j = 0; j < 12; ++j) {
        auto client = Stream(SimpleRequest());
        if ((i + j) % 4 == 0) {
          client->SkipStarted();
          client->context.TryCancel();
          client->Finish().IgnoreError();
          continue;
        }
        const bool ok = client->Finish().ok();
        if (ok && client->ids == std::vector<int32_t>({200, 201, 202, 203, 204, 205, 206, 207})) ++complete;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(complete, 16 * 9);
  EXPECT_TRUE(Idle());
}

}  // namespace
}  // namespace baton
