// Decode.Run: who is let in, and how long sequences of many calls share one engine.
#include <algorithm>

#include "common/rpc/status_mapping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/decode/decode_worker.h"

namespace baton {
namespace {

using testing::ElementsAreArray;
using testing::HasSubstr;
using worker::v1::DecodeRequest;

constexpr char kModel[] = "tiny-recurrentgemma";

DecodeRequest SomeRequest(int prompt_tokens = 20, int max_new_tokens = 8) {
  return MakeRequest(LoopModel(kModel), RandomPrompt(prompt_tokens, 3), max_new_tokens);
}

int64_t StateBytes(int tokens) { return LoopModel(kModel).MakeStateLayout(1)->BytesFor(tokens); }

TEST(RunTest, FullMemoryRefusesAtOnceAndTakesAgainWhenSomeIsFree) {
  DecodeWorker worker({.model = kModel, .memory = 2 * StateBytes(28)});
  RunStream first(worker.stub(), SomeRequest());
  auto second = std::make_unique<RunStream>(worker.stub(), SomeRequest());
  ASSERT_TRUE(first.Reserve().has_value());
  ASSERT_TRUE(second->Reserve().has_value());
  EXPECT_EQ(worker.budget().used(), worker.budget().total());
  EXPECT_EQ(worker.Metric("baton_state_usage_ratio"), 1.0);
  EXPECT_EQ(worker.Metric("baton_requests_waiting"), 2);
  {
    RunStream third(worker.stub(), SomeRequest());
    EXPECT_FALSE(third.Reserve().has_value());
    const absl::Status refused = third.End().status;
    EXPECT_EQ(refused.code(), absl::StatusCode::kResourceExhausted);
    EXPECT_EQ(ErrorReason(refused), "DECODE_MEMORY_FULL");
    EXPECT_GT(RetryDelay(refused), absl::ZeroDuration());
  }
  EXPECT_EQ(worker.Metric("baton_sequences_finished_total", "refused"), 1);
  second.reset();
  WaitUntil([&] { return worker.budget().used() == StateBytes(28); });
  {
    RunStream fourth(worker.stub(), SomeRequest());
    EXPECT_TRUE(fourth.Reserve().has_value());
  }
  first.Cancel();
  ExpectNothingHeld(worker);
}

TEST(RunTest, WhatCanNeverFitIsTheCallersMistake) {
  DecodeWorker worker({.model = kModel, .memory = StateBytes(28) - 1});
  RunStream run(worker.stub(), SomeRequest());
  EXPECT_FALSE(run.Reserve().has_value());
  const absl::Status refused = run.End().status;
  EXPECT_EQ(refused.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReason(refused), "PROMPT_TOO_LONG");
  ExpectNothingHeld(worker);
}

TEST(RunTest, BadRequestsAreRefusedByField) {
  DecodeWorker worker({.model = kModel});
  const auto status_of = [&](const std::function<void(DecodeRequest&)>& spoil) {
    DecodeRequest request = SomeRequest();
    spoil(request);
    RunStream run(worker.stub(), request);
    EXPECT_FALSE(run.Reserve().has_value());
    return run.End().status;
  };
  absl::Status status = status_of([](DecodeRequest& r) { r.set_tokens(3, 2048); });
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("tokens[3]"));
  status = status_of([](DecodeRequest& r) { r.mutable_stopping()->set_max_new_tokens(3000); });
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(ErrorReason(status), "PROMPT_TOO_LONG");
  status = status_of([](DecodeRequest& r) { r.set_fingerprint(std::string(32, 'x')); });
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ErrorReason(status), "FINGERPRINT_MISMATCH");
  EXPECT_EQ(worker.Metric("baton_sequences_finished_total", "refused"), 3);
  ExpectNothingHeld(worker);
}

TEST(RunTest, DrainingRefusesNewAndFinishesOld) {
  DecodeWorker worker({.model = kModel});
  const Expectation expected = RunPlainLoop(kModel, SomeRequest());
  RunStream old(worker.stub(), expected.request);
  const auto reservation = old.Reserve();
  ASSERT_TRUE(reservation.has_value());
  worker.gate().Close();
  RunStream late(worker.stub(), expected.request);
  EXPECT_FALSE(late.Reserve().has_value());
  const absl::Status refused = late.End().status;
  EXPECT_EQ(refused.code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ErrorReason(refused), "DRAINING");
  ASSERT_TRUE(HandOver(worker.stub(), *reservation, expected.messages).ok());
  EXPECT_THAT(old.End().tokens, ElementsAreArray(expected.tokens));
  EXPECT_TRUE(worker.gate().Drain(absl::InfiniteDuration()));
}

TEST(RunTest, ASequenceLeavesWhenItsCallerDoes) {
  DecodeWorker worker({.model = kModel});
  // Far longer than the test would wait for.
  const Expectation expected = RunPlainLoop(kModel, SomeRequest(20, 6));
  DecodeRequest endless = expected.request;
  endless.mutable_stopping()->set_max_new_tokens(2000);
  RunStream run(worker.stub(), endless);
  const auto reservation = run.Reserve();
  ASSERT_TRUE(reservation.has_value());
  ASSERT_TRUE(HandOver(worker.stub(), *reservation, expected.messages).ok());
  ASSERT_TRUE(run.Next().has_value());
  EXPECT_EQ(worker.load().Snapshot().running(), 1);
  run.Cancel();
  EXPECT_EQ(run.End().status.code(), absl::StatusCode::kCancelled);
  ExpectNothingHeld(worker);
  EXPECT_LT(worker.Metric("baton_generation_tokens_total"), 1999);
}

TEST(RunTest, TwoHundredAtOnce) {
  DecodeWorker worker({.model = kModel});
  const Expectation expected = RunPlainLoop(kModel, SomeRequest(70, 30));
  std::vector<std::unique_ptr<RunStream>> runs;
  std::vector<worker::v1::Reservation> reservations;
  for (int i = 0; i < 200; ++i) {
    runs.push_back(std::make_unique<RunStream>(worker.stub(), expected.request));
    const auto reservation = runs.back()->Reserve();
    ASSERT_TRUE(reservation.has_value());
    reservations.push_back(*reservation);
  }
  EXPECT_EQ(worker.load().Snapshot().queued(), 200);
  for (const worker::v1::Reservation& reservation : reservations) {
    ASSERT_TRUE(HandOver(worker.stub(), reservation, expected.messages).ok());
  }
  for (const auto& run : runs) {
    const RunStream::Result result = run->End();
    EXPECT_TRUE(result.status.ok()) << result.status;
    EXPECT_THAT(result.tokens, ElementsAreArray(expected.tokens));
  }
  ExpectNothingHeld(worker);
}

TEST(RunTest, AStoppingServerEndsEverything) {
  const Expectation expected = RunPlainLoop(kModel, SomeRequest(20, 6));
  DecodeRequest endless = expected.request;
  endless.mutable_stopping()->set_max_new_tokens(2000);
  DecodeWorker worker({.model = kModel});
  RunStream waiting(worker.stub(), endless);
  RunStream decoding(worker.stub(), endless);
  ASSERT_TRUE(waiting.Reserve().has_value());
  const auto reservation = decoding.Reserve();
  ASSERT_TRUE(reservation.has_value());
  ASSERT_TRUE(HandOver(worker.stub(), *reservation, expected.messages).ok());
  Sender sender(worker.stub());
  EXPECT_FALSE(worker.gate().Drain(absl::ZeroDuration()));
  worker.server().Stop(absl::ZeroDuration());
  EXPECT_FALSE(waiting.End().status.ok());
  EXPECT_FALSE(decoding.End().status.ok());
  ExpectNothingHeld(worker);
}

}  // namespace
}  // namespace baton
