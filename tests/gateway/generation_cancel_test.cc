// Generation that is ended from outside, at every stage: cancelled calls, deadlines, readers that are too slow,
// draining.
#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <thread>
#include <vector>

#include <gtest/gtest.h>

#include "tests/gateway/gateway_fixture.h"

namespace baton {
namespace {

class CancelTest : public PairTest {};

TEST_F(CancelTest, CancelWhileReserving) {
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

TEST_F(CancelTest, CancelWhilePrefilling) {
  Running running = Begin(SimpleRequest());
  running.client->context.TryCancel();
  EXPECT_TRUE(running.decode->WaitUntilOver());
  EXPECT_TRUE(running.prefill->WaitUntilOver());
  EXPECT_TRUE(running.decode->cancelled());
  EXPECT_TRUE(running.prefill->cancelled());
  EXPECT_TRUE(Idle());
}

TEST_F(CancelTest, CancelWhileHandingOff) {
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

TEST_F(CancelTest, CancelWhileDecoding) {
  Running running = BeginDecoding(SimpleRequest());
  running.decode->Push(Tokens(5, {201}));
  ASSERT_TRUE(running.client->Next().has_value());
  running.client->context.TryCancel();
  EXPECT_TRUE(running.decode->WaitUntilOver());
  EXPECT_TRUE(running.decode->cancelled());
  EXPECT_TRUE(Idle());
  ExpectServes();
}

TEST_F(CancelTest, AnUnaryCallIsCancelledToo) {
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

TEST_F(CancelTest, DeadlineEndsBothWorkerCalls) {
  auto client = Stream(SimpleRequest(), std::chrono::milliseconds(1500));
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  decode->Push(Reserve(decode_, 1));
  EXPECT_TRUE(absl::IsDeadlineExceeded(client->Finish()));
  EXPECT_TRUE(decode->WaitUntilOver());
  EXPECT_TRUE(Idle());
}

// --- Readers.

class SlowReaderTest : public PairTest {
 protected:
  void SetUp() override {
    options_.max_queued_events = 16;
    PairTest::SetUp();
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

TEST_F(CancelTest, DrainFinishesWhatRunsAndRefusesTheRest) {
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

TEST_F(CancelTest, WhatOutlivesTheGracePeriodIsToldWhy) {
  Running running = BeginDecoding(SimpleRequest());
  std::future<bool> drained = std::async(std::launch::async, [&] { return gateway_->Drain(absl::Milliseconds(10)); });
  const absl::Status status = running.client->Finish();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), "DRAINING");
  EXPECT_FALSE(drained.get());
  EXPECT_TRUE(running.decode->WaitUntilOver());
}

// --- Many at once.

TEST_F(CancelTest, ManyStreamsAtOnce) {
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
