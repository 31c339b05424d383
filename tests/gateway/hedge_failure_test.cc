// What goes wrong while two attempts run: a hedge's failure is nothing to the request, and the first attempt's leaves
// the hedge.
#include <gtest/gtest.h>

#include <chrono>
#include <functional>
#include <string>
#include <vector>

#include "tests/gateway/hedge_fixture.h"

namespace baton {
namespace {

struct Fault {
  const char* name;
  std::function<void(FakeDecode&, FakeDecode::Call&, FakePrefill::Call&)> happen;
};

grpc::Status Full(const char* reason) { return ToGrpcStatus(WithReason(absl::ResourceExhaustedError("full"), reason)); }

const std::vector<Fault>& Faults() {
  using D = FakeDecode::Call;
  using P = FakePrefill::Call;
  static const std::vector<Fault>* const faults = new std::vector<Fault>{
      {"PrefillGone", [](FakeDecode&, D&, P& prefill) { prefill.Finish(Unavailable()); }},
      {"PrefillDraining", [](FakeDecode&, D&, P& prefill) { prefill.Finish(Unavailable("DRAINING")); }},
      {"PrefillBug",
       [](FakeDecode&, D&, P& prefill) {
         prefill.Finish({grpc::StatusCode::INTERNAL, "a bug"});
       }},
      {"PrefillFull", [](FakeDecode&, D&, P& prefill) { prefill.Finish(Full("PREFILL_MEMORY_FULL")); }},
      {"PrefillSaysNothing", [](FakeDecode&, D&, P& prefill) { prefill.Finish(); }},
      {"HandoffFailed", [](FakeDecode&, D&, P& prefill) { prefill.Finish(Unavailable("HANDOFF_FAILED")); }},
      {"UnwantedScores",
       [](FakeDecode&, D&, P& prefill) {
         prefill.Push(Scores(1, {100, 101, 102}));
       }},
      {"NoSuchToken", [](FakeDecode&, D&, P& prefill) { prefill.Push(First(1 << 30)); }},
      {"TooManySamples",
       [](FakeDecode&, D&, P& prefill) {
         worker::v1::PrefillEvent event = First(200);
         event.mutable_first_token()->add_further()->set_id(200);
         prefill.Push(event);
       }},
      {"DecodeGone", [](FakeDecode&, D& decode, P&) { decode.Finish(Unavailable()); }},
      {"DecodeFull", [](FakeDecode&, D& decode, P&) { decode.Finish(Full("DECODE_MEMORY_FULL")); }},
      {"DecodeSaysNothing", [](FakeDecode&, D& decode, P&) { decode.Finish(); }},
      {"ReservedTwice", [](FakeDecode& worker, D& decode, P&) { decode.Push(Reserve(worker, 999)); }},
      {"FirstTokenOfAnother", [](FakeDecode&, D& decode, P&) { decode.Push(LocalFirst(200)); }},
  };
  return *faults;
}

class FaultTest : public HedgeTest, public ::testing::WithParamInterface<size_t> {
 protected:
  static void Happen(const Pair& pair) {
    Faults()[GetParam()].happen(*pair.decode.worker, *pair.decode.call, *pair.prefill.call);
    EXPECT_TRUE(pair.decode.call->WaitUntilOver());
    EXPECT_TRUE(pair.prefill.call->WaitUntilOver());
  }
};

TEST_P(FaultTest, OfTheHedgeIsNothingToTheRequest) {
  auto client = Stream(SimpleRequest(3));
  const Pair first = Computing();
  const Pair second = Computing();
  Happen(second);
  Complete(first);
  ExpectCompletes(*client);
  EXPECT_EQ(Hedges("failed"), 1);
  EXPECT_EQ(Count("baton_hedges_total"), 1);
  EXPECT_EQ(Count("baton_retries_total"), 0);
  ExpectIdle();
}

TEST_P(FaultTest, OfTheFirstAttemptLeavesTheHedge) {
  auto client = Stream(SimpleRequest(3));
  const Pair first = Computing();
  const Pair second = Computing();
  Happen(first);
  Complete(second);
  ExpectCompletes(*client);
  EXPECT_EQ(Hedges("took_over"), 1);
  EXPECT_EQ(Count("baton_hedges_total"), 1);
  EXPECT_EQ(Count("baton_retries_total"), 0);
  ExpectIdle();
}

INSTANTIATE_TEST_SUITE_P(Faults, FaultTest, ::testing::Range(size_t{0}, Faults().size()),
                         [](const auto& info) { return std::string(Faults()[info.param].name); });

TEST_F(HedgeTest, WhenBothFailTheRequestIsRetried) {
  for (const bool hedge_first : {false, true}) {
    auto client = Stream(SimpleRequest(3));
    const Pair first = Computing();
    const Pair second = Computing();
    const Pair& failing = hedge_first ? second : first;
    failing.prefill.call->Finish(Unavailable());
    EXPECT_TRUE(failing.decode.call->WaitUntilOver());
    (hedge_first ? first : second).prefill.call->Finish(Unavailable());
    Complete(Computing());
    ExpectCompletes(*client);
  }
  EXPECT_EQ(Hedges("failed"), 1);
  EXPECT_EQ(Hedges("took_over"), 1);
  EXPECT_EQ(Count("baton_retries_total"), 2);
  ExpectIdle();
}

class TwoAttemptsTest : public HedgeTest {
 protected:
  void Configure() override { options_.max_attempts = 2; }
};

TEST_F(TwoAttemptsTest, AHedgeThatTookOverIsTheSecond) {
  auto client = Stream(SimpleRequest(3));
  const Pair first = Computing();
  const Pair second = Computing();
  first.prefill.call->Finish(Unavailable());
  EXPECT_TRUE(first.decode.call->WaitUntilOver());
  second.prefill.call->Finish(Unavailable());
  const absl::Status status = client->Finish();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  ExpectIdle();
}

class StalledTest : public HedgeTest {
 protected:
  void Configure() override {
    options_.stall_timeout = std::chrono::milliseconds(100);
    options_.max_attempts = 1;
  }
};

TEST_F(StalledTest, BothMayHang) {
  auto client = Stream(SimpleRequest(3));
  const Decode first = decode_.Take();
  const Decode second = decode_.Take();
  // The stall rule finds one after the other, and the second one is the last attempt.
  const absl::Status status = client->Finish();
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), "STALLED");
  EXPECT_TRUE(first.call->WaitUntilOver());
  EXPECT_TRUE(second.call->WaitUntilOver());
  EXPECT_EQ(Count("baton_hedges_total"), 1);
  ExpectIdle();
}

class BreakerHedgeTest : public HedgeTest {
 protected:
  void Configure() override {
    options_.breaker.failures = 1;
    options_.breaker.first_pause = std::chrono::hours(1);
  }
};

TEST_F(BreakerHedgeTest, ALoserHasNotFailed) {
  for (const bool hedge_wins : {true, false}) {
    auto client = Stream(SimpleRequest(3));
    const Pair first = Computing();
    const Pair second = Computing();
    Complete(hedge_wins ? second : first);
    ExpectCancelled(hedge_wins ? first : second);
    ExpectCompletes(*client);
  }
  EXPECT_EQ(Count("baton_worker_pauses_total"), 0);
  // One that failed has, whatever became of the request.
  auto client = Stream(SimpleRequest(3));
  const Pair first = Computing();
  const Pair second = Computing();
  second.prefill.call->Finish(Unavailable());
  EXPECT_TRUE(second.decode.call->WaitUntilOver());
  Complete(first);
  ExpectCompletes(*client);
  EXPECT_EQ(Count("baton_worker_pauses_total", "worker_role", "prefill"), 1);
  ExpectIdle();
}

}  // namespace
}  // namespace baton
