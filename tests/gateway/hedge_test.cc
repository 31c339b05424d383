// A request that is late with its first token is tried on other workers as well: one of both goes on, the client sees
// one answer, and the other leaves nothing behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "common/rpc/worker_request.h"
#include "gateway/session_handle.h"
#include "tests/gateway/hedge_fixture.h"

namespace baton {
namespace {

using ::testing::ElementsAre;

TEST_F(HedgeTest, APromptThatHangsIsComputedElsewhere) {
  auto client = Stream(SimpleRequest(3));
  const Pair first = Computing();
  const Pair second = Computing();
  EXPECT_NE(first.prefill.worker, second.prefill.worker);
  EXPECT_NE(first.decode.worker, second.decode.worker);
  EXPECT_EQ(first.prefill.call->request.tokens().size(), second.prefill.call->request.tokens().size());
  EXPECT_EQ(first.prefill.call->request.sampling().seed(), second.prefill.call->request.sampling().seed());
  EXPECT_EQ(second.prefill.call->request.handoff().endpoint(), second.decode.worker->address());
  Complete(second);
  ExpectCancelled(first);
  ExpectCompletes(*client);
  EXPECT_EQ(Hedges("won"), 1);
  EXPECT_EQ(Count("baton_hedges_total"), 1);
  EXPECT_EQ(Count("baton_retries_total"), 0);
  ExpectIdle();
}

TEST_F(HedgeTest, AReservationThatHangsIsMadeElsewhere) {
  auto client = Stream(SimpleRequest(3));
  const Decode first = decode_.Take();
  const Pair second = Computing();
  EXPECT_NE(first.worker, second.decode.worker);
  Complete(second);
  EXPECT_TRUE(first.call->WaitUntilOver());
  EXPECT_TRUE(first.call->cancelled());
  ExpectCompletes(*client);
  EXPECT_EQ(Hedges("won"), 1);
  ExpectIdle();
}

TEST_F(HedgeTest, TheFirstAttemptMayStillWin) {
  auto client = Stream(SimpleRequest(3));
  const Pair first = Computing();
  const Pair second = Computing();
  Complete(first);
  ExpectCancelled(second);
  ExpectCompletes(*client);
  EXPECT_EQ(Hedges("lost"), 1);
  EXPECT_EQ(Count("baton_hedges_total"), 1);
  ExpectIdle();
}

TEST_F(HedgeTest, WhatTheLoserSaysLaterIsPassedOver) {
  auto client = Stream(SimpleRequest(3));
  const Pair first = Computing();
  const Pair second = Computing();
  // Both at once, with other tokens than each other's: whichever it is, it is one of them.
  second.prefill.call->Push(First(300));
  first.prefill.call->Push(First(300));
  for (const Pair* pair : {&first, &second}) {
    pair->decode.call->Push(Tokens(5, {pair == &first ? 301 : 401, 302}));
    pair->decode.call->Push(DecodeDone(worker::v1::LENGTH));
    pair->decode.call->Finish();
    pair->prefill.call->Push(PrefillDone());
    pair->prefill.call->Finish();
  }
  ASSERT_TRUE(client->Finish().ok());
  EXPECT_EQ(client->ids, (std::vector<int32_t>{300, Hedges("won") == 1 ? 401 : 301, 302}));
  EXPECT_EQ(Hedges("won") + Hedges("lost"), 1);
  ExpectIdle();
}

TEST_F(HedgeTest, EachRequestHasOneHedge) {
  auto client = Stream(SimpleRequest(3));
  const Pair first = Computing();
  const Pair second = Computing();
  second.prefill.call->Finish(Unavailable());
  EXPECT_TRUE(second.decode.call->WaitUntilOver());
  first.prefill.call->Finish(Unavailable());
  // The retry hangs as well, for longer than the delay: another request is hedged meanwhile, this one is not.
  const Pair third = Computing();
  auto other = Stream(SimpleRequest(3));
  const Pair other_first = Computing();
  const Pair other_second = Computing();
  Complete(other_second);
  ExpectCompletes(*other);
  Complete(third);
  ExpectCompletes(*client);
  EXPECT_EQ(Hedges("failed"), 1);
  EXPECT_EQ(Hedges("won"), 1);
  EXPECT_EQ(Count("baton_retries_total"), 1);
  ExpectIdle();
}

TEST_F(HedgeTest, TheTraceTellsWhoWon) {
  v1::GenerateRequest request = SimpleRequest(3);
  request.set_request_id("hedged");
  auto client = Stream(request);
  const Pair first = Computing();
  Complete(Computing());
  ExpectCancelled(first);
  ExpectCompletes(*client);
  grpc::ClientContext context;
  v1::GetTraceRequest asked;
  asked.set_request_id("hedged");
  v1::GetTraceResponse trace;
  ASSERT_TRUE(fleet_->GetTrace(&context, asked, &trace).ok());
  const auto text = [](const v1::TraceSpan& span, const std::string& key) {
    for (const auto& attribute : span.attributes()) {
      if (attribute.key() == key) return attribute.has_flag() ? std::string("flag") : attribute.text();
    }
    return std::string();
  };
  EXPECT_EQ(text(trace.spans(0), "baton.hedge_result"), "won");
  std::vector<std::string> attempts;
  for (const v1::TraceSpan& span : trace.spans()) {
    if (span.name() != "attempt") continue;
    attempts.push_back(text(span, "baton.hedge") + " " + text(span, "baton.race"));
    EXPECT_FALSE(span.failed());
    EXPECT_GT(span.end_unix_nanos(), 0u);
  }
  EXPECT_THAT(attempts, ElementsAre(" lost", "flag won"));
}

// --- Failures.

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

// --- Ends from the client's side.

TEST_F(HedgeTest, CancellingEndsBoth) {
  auto client = Stream(SimpleRequest(3));
  const Pair first = Computing();
  const Pair second = Computing();
  client->context.TryCancel();
  ExpectCancelled(first);
  ExpectCancelled(second);
  ExpectIdle();
  EXPECT_EQ(Hedges("cancelled"), 1);
  EXPECT_EQ(Count("baton_hedges_total"), 1);
}

TEST_F(HedgeTest, TheDeadlineEndsBoth) {
  auto client = Stream(SimpleRequest(3), std::chrono::milliseconds(1500));
  const Pair first = Computing();
  const Pair second = Computing();
  EXPECT_TRUE(absl::IsDeadlineExceeded(client->Finish()));
  for (const Pair* pair : {&first, &second}) {
    EXPECT_TRUE(pair->decode.call->WaitUntilOver());
    EXPECT_TRUE(pair->prefill.call->WaitUntilOver());
  }
  ExpectIdle();
  EXPECT_EQ(Count("baton_hedges_total"), 1);
}

TEST_F(HedgeTest, ATimeLimitEndsBoth) {
  v1::GenerateRequest request = SimpleRequest(3);
  request.mutable_stopping()->set_time_limit_seconds(2);
  auto client = Stream(request);
  const Pair first = Computing();
  const Pair second = Computing();
  ASSERT_TRUE(client->Finish().ok());
  EXPECT_EQ(client->finished->reason(), v1::FINISH_REASON_TIME_LIMIT);
  ExpectCancelled(first);
  ExpectCancelled(second);
  ExpectIdle();
}

TEST_F(HedgeTest, AGatewayThatStopsEndsBoth) {
  auto client = Stream(SimpleRequest(3));
  const Pair first = Computing();
  const Pair second = Computing();
  EXPECT_FALSE(gateway_->Drain(absl::ZeroDuration()));
  EXPECT_TRUE(absl::IsUnavailable(client->Finish()));
  ExpectCancelled(first);
  ExpectCancelled(second);
}

// --- What is asked for.

TEST_F(HedgeTest, EveryChoiceComesFromTheWinner) {
  for (const bool hedge_wins : {true, false}) {
    v1::GenerateRequest request = SimpleRequest(2);
    request.set_n(3);
    auto client = Stream(request);
    const Pair first = Computing();
    const Pair second = Computing();
    EXPECT_EQ(second.decode.call->request.sampling().further_seeds_size(), 2);
    const Pair& winner = hedge_wins ? second : first;
    Report();
    worker::v1::PrefillEvent event = First(200);
    event.mutable_first_token()->mutable_logprobs();
    for (const int32_t id : {210, 220}) {
      worker::v1::FirstToken* const further = event.mutable_first_token()->add_further();
      further->set_id(id);
      further->mutable_logprobs();
    }
    winner.prefill.call->Push(event);
    winner.prefill.call->Push(PrefillDone());
    winner.prefill.call->Finish();
    ExpectCancelled(hedge_wins ? first : second);
    for (const int sample : {2, 0, 1}) {
      worker::v1::DecodeEvent token = Tokens(5, {201 + 10 * sample}, sample);
      token.mutable_progress()->mutable_tokens(0)->add_logprobs();
      winner.decode.call->Push(token);
      winner.decode.call->Push(DecodeDone(worker::v1::LENGTH, sample));
    }
    winner.decode.call->Finish();
    std::map<int, std::vector<int32_t>> ids;
    while (std::optional<v1::GenerateEvent> read = client->Next()) {
      auto& of_choice = ids[read->delta().choice()];
      of_choice.insert(of_choice.end(), read->delta().token_ids().begin(), read->delta().token_ids().end());
    }
    EXPECT_TRUE(client->reader->Finish().ok());
    EXPECT_THAT(ids[0], ElementsAre(200, 201));
    EXPECT_THAT(ids[1], ElementsAre(210, 211));
    EXPECT_THAT(ids[2], ElementsAre(220, 221));
  }
  ExpectIdle();
}

TEST_F(HedgeTest, ScoresOfThePromptDecideTheRace) {
  for (const bool hedge_wins : {true, false}) {
    v1::GenerateRequest request = SimpleRequest(3);
    request.mutable_output()->set_prompt_logprobs(true);
    auto client = Stream(request);
    const Pair first = Computing();
    const Pair second = Computing();
    const Pair& winner = hedge_wins ? second : first;
    const Pair& loser = hedge_wins ? first : second;
    Report();
    winner.prefill.call->Push(Scores(1, {100}, -1));
    ExpectCancelled(loser);
    winner.prefill.call->Push(Scores(2, {101, 102}, -1));
    winner.prefill.call->Push(First(200));
    winner.prefill.call->Push(PrefillDone());
    winner.prefill.call->Finish();
    winner.decode.call->Push(Tokens(5, {201, 202}));
    winner.decode.call->Push(DecodeDone(worker::v1::LENGTH));
    winner.decode.call->Finish();
    ASSERT_TRUE(client->Finish().ok());
    ASSERT_EQ(client->prompt_logprobs.size(), 3u);
    for (size_t i = 0; i < 3; ++i) {
      EXPECT_EQ(client->prompt_logprobs[i].id(), 100 + static_cast<int>(i));
      EXPECT_EQ(client->prompt_logprobs[i].logprob(), -1);
    }
  }
  EXPECT_EQ(Hedges("won"), 1);
  EXPECT_EQ(Hedges("lost"), 1);
  ExpectIdle();
}

TEST_F(HedgeTest, ScoresOfAnotherPromptAreNothingToTheRequest) {
  v1::GenerateRequest request = SimpleRequest(1);
  request.mutable_output()->set_prompt_logprobs(true);
  auto client = Stream(request);
  const Prefill first = prefill_.Take();
  const Prefill second = prefill_.Take();
  second.call->Push(Scores(1, {100, 101, 103}));
  EXPECT_TRUE(second.call->WaitUntilOver());
  first.call->Push(Scores(1, {100, 101, 102}));
  worker::v1::PrefillEvent last = FirstAndLast(200, worker::v1::LENGTH);
  first.call->Push(last);
  first.call->Push(PrefillDone());
  first.call->Finish();
  const absl::Status status = client->Finish();
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_EQ(client->prompt_logprobs.size(), 3u);
  EXPECT_EQ(Hedges("failed"), 1);
  ExpectIdle();
}

TEST_F(HedgeTest, OneTokenNeedsNoDecodeWorkers) {
  auto client = Stream(SimpleRequest(1));
  const Prefill first = prefill_.Take();
  const Prefill second = prefill_.Take();
  EXPECT_NE(first.worker, second.worker);
  second.call->Push(FirstAndLast(200, worker::v1::LENGTH));
  second.call->Push(PrefillDone());
  second.call->Finish();
  ASSERT_TRUE(client->Finish().ok());
  EXPECT_THAT(client->ids, ElementsAre(200));
  EXPECT_TRUE(first.call->WaitUntilOver());
  EXPECT_EQ(Hedges("won"), 1);
  ExpectIdle();
}

TEST_F(HedgeTest, WhatIsCachedIsTheWinners) {
  auto client = Stream(SimpleRequest(3));
  const Pair first = Computing();
  const Pair second = Computing();
  worker::v1::PrefillEvent done = PrefillDone();
  done.mutable_done()->set_cached_tokens(3);
  worker::v1::PrefillEvent token = First(200);
  token.mutable_first_token()->set_cached_tokens(3);
  second.prefill.call->Push(token);
  ExpectCancelled(first);
  second.prefill.call->Push(done);
  second.prefill.call->Finish();
  second.decode.call->Push(Tokens(5, {201, 202}));
  second.decode.call->Push(DecodeDone(worker::v1::LENGTH));
  second.decode.call->Finish();
  ExpectCompletes(*client);
  EXPECT_EQ(client->finished->usage().cached_prompt_tokens(), 3);
  ExpectIdle();
}

TEST_F(HedgeTest, AKeptTurnIsKeptByTheWinner) {
  v1::GenerateRequest request = SimpleRequest(3);
  request.set_keep_state(true);
  auto client = Stream(request);
  const Pair first = Computing();
  const Pair second = Computing();
  EXPECT_NE(first.decode.worker, second.decode.worker);
  second.prefill.call->Push(First(200));
  second.prefill.call->Push(PrefillDone());
  second.prefill.call->Finish();
  ExpectCancelled(first);
  second.decode.call->Push(Tokens(5, {201, 202}));
  worker::v1::DecodeEvent done = DecodeDone(worker::v1::LENGTH);
  done.mutable_progress()->mutable_done(0)->set_kept_until_ms(absl::ToUnixMillis(absl::Now() + absl::Hours(1)));
  second.decode.call->Push(done);
  second.decode.call->Finish();
  ExpectCompletes(*client);
  ASSERT_TRUE(client->finished->has_session());
  EXPECT_EQ(client->finished->session().handle(),
            MakeSessionHandle(second.decode.worker->info().boot_id(), second.decode.call->request.keep().id()));
  ExpectIdle();
}

// --- Who is asked.

class OneDecodeWorkerTest : public HedgeTest {
 protected:
  void Configure() override { decode_workers_ = {&decode_a_}; }
};

TEST_F(OneDecodeWorkerTest, OneThatHasReservedMayReserveTwice) {
  auto client = Stream(SimpleRequest(3));
  const Pair first = Computing();
  const Pair second = Computing();
  EXPECT_NE(first.prefill.worker, second.prefill.worker);
  EXPECT_EQ(first.decode.worker, second.decode.worker);
  EXPECT_NE(first.prefill.call->request.handoff().reservation_id(),
            second.prefill.call->request.handoff().reservation_id());
  Complete(second);
  ExpectCancelled(first);
  ExpectCompletes(*client);
  ExpectIdle();
}

TEST_F(OneDecodeWorkerTest, OneThatHasNotIsNotAskedAgain) {
  auto client = Stream(SimpleRequest(3));
  const Decode first = decode_.Take();
  EXPECT_TRUE(Eventually([&] { return Withheld("workers") == 1; }));
  first.call->Push(Reserve(*first.worker, 1));
  const Prefill prefill = prefill_.Take();
  // Now it has; and the other prefill worker is there.
  const Pair second = Computing();
  Complete({first, prefill});
  ExpectCompletes(*client);
  EXPECT_EQ(Count("baton_hedges_withheld_total"), 1);
  EXPECT_EQ(Hedges("lost"), 1);
  ExpectIdle();
}

TEST_F(OneDecodeWorkerTest, NorOneThatIsToKeepTheTurn) {
  v1::GenerateRequest request = SimpleRequest(3);
  request.set_keep_state(true);
  auto client = Stream(request);
  const Pair first = Computing();
  EXPECT_TRUE(Eventually([&] { return Withheld("workers") == 1; }));
  Complete(first);
  ExpectCompletes(*client);
  EXPECT_EQ(Count("baton_hedges_total"), 0);
  ExpectIdle();
}

class OnePrefillWorkerTest : public HedgeTest {
 protected:
  void Configure() override { prefill_workers_ = {&prefill_a_}; }
};

TEST_F(OnePrefillWorkerTest, AHungReservationLeavesThePrefillWorkerFree) {
  auto client = Stream(SimpleRequest(3));
  const Decode first = decode_.Take();
  const Pair second = Computing();
  Complete(second);
  ExpectCompletes(*client);
  EXPECT_TRUE(first.call->WaitUntilOver());
  EXPECT_EQ(Hedges("won"), 1);
  ExpectIdle();
}

TEST_F(OnePrefillWorkerTest, ThePromptsOwnWorkerIsNotAskedTwice) {
  auto client = Stream(SimpleRequest(3));
  const Pair first = Computing();
  EXPECT_TRUE(Eventually([&] { return Withheld("workers") == 1; }));
  Complete(first);
  ExpectCompletes(*client);
  EXPECT_EQ(Count("baton_hedges_total"), 0);
  ExpectIdle();
}

class LocalHedgeTest : public HedgeTest {
 protected:
  void Configure() override {
    options_.local_prefill_tokens = 16;
    decode_workers_ = {&computing_a_, &computing_b_};
  }
  static worker::v1::WorkerInfo Info() {
    worker::v1::WorkerInfo info = TestWorkerInfo(worker::v1::WorkerInfo::DECODE);
    info.set_local_prefill_chunk(16);
    return info;
  }
  FakeDecode computing_a_{Info()}, computing_b_{Info()};
};

TEST_F(LocalHedgeTest, ADecodeWorkerThatHangsOverThePromptIsLeft) {
  auto client = Stream(SimpleRequest(3));
  const Decode first = Reserving();
  EXPECT_TRUE(first.call->request.compute_prompt());
  const Decode second = Reserving();
  EXPECT_NE(first.worker, second.worker);
  ASSERT_TRUE(second.call->request.compute_prompt());
  second.call->Push(LocalFirst(200));
  EXPECT_TRUE(first.call->WaitUntilOver());
  second.call->Push(Tokens(5, {201, 202}));
  second.call->Push(DecodeDone(worker::v1::LENGTH));
  second.call->Finish();
  ExpectCompletes(*client);
  EXPECT_EQ(Hedges("won"), 1);
  ExpectIdle();
}

// --- How often.

class SmallBudgetTest : public HedgeTest {
 protected:
  void Configure() override { options_.hedge.budget_percent = 0.01; }
};

TEST_F(SmallBudgetTest, WhenItIsUsedUpNoneBegins) {
  for (int i = 0; i < static_cast<int>(HedgeBudget::kBurst); ++i) {
    auto client = Stream(SimpleRequest(3));
    const Pair first = Computing();
    Complete(Computing());
    ExpectCompletes(*client);
    EXPECT_TRUE(first.prefill.call->WaitUntilOver());
  }
  // Until a request does not find the workers still marked as late by the one before, which is looked at first.
  for (int i = 0; Withheld("budget") == 0; ++i) {
    ASSERT_LT(i, 100);
    const double before = Count("baton_hedges_withheld_total");
    auto client = Stream(SimpleRequest(3));
    const Pair first = Computing();
    EXPECT_TRUE(Eventually([&] { return Count("baton_hedges_withheld_total") == before + 1; }));
    Complete(first);
    ExpectCompletes(*client);
  }
  EXPECT_EQ(Count("baton_hedges_total"), HedgeBudget::kBurst);
  ExpectIdle();
}

class OneAtATimeTest : public HedgeTest {
 protected:
  void Configure() override { options_.admission.max_running = 1; }
};

TEST_F(OneAtATimeTest, NoneWhileOthersWait) {
  auto first = Stream(SimpleRequest(3));
  Computing();
  const Pair hedge = Computing();
  auto second = Stream(SimpleRequest(3));
  auto third = Stream(SimpleRequest(3));
  ASSERT_TRUE(Eventually([&] { return Status().queued_requests() == 2; }));
  Complete(hedge);
  ExpectCompletes(*first);
  // Whichever it is, the other waits.
  const Pair next = Computing();
  EXPECT_TRUE(Eventually([&] { return Withheld("queue") == 1; }));
  EXPECT_EQ(Count("baton_hedges_total"), 1);
  Complete(next);
  const Pair last = Computing();
  Complete(last);
  ExpectCompletes(*second);
  ExpectCompletes(*third);
}

TEST(HedgeOptionsTest, OffByDefault) {
  EXPECT_FALSE(GatewayOptions().hedge.after.has_value());
  EXPECT_EQ(GatewayOptions().hedge.budget_percent, 5);
}

TEST(HedgeBudgetTest, IsAShareOfTheRequests) {
  HedgeBudget budget(5);
  int taken = 0;
  while (budget.Take()) ++taken;
  EXPECT_EQ(taken, HedgeBudget::kBurst);
  for (int i = 0; i < 1000; ++i) {
    budget.Earn();
    if (budget.Take()) ++taken;
  }
  EXPECT_EQ(taken, HedgeBudget::kBurst + 50);
  for (int i = 0; i < 100000; ++i) budget.Earn();
  taken = 0;
  while (budget.Take()) ++taken;
  EXPECT_EQ(taken, HedgeBudget::kBurst) << "what is saved up is bounded";
}

}  // namespace
}  // namespace baton
