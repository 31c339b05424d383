// A request that is late with its first token is tried on other workers as well: one of both goes on, the client sees
// one answer, and the other leaves nothing behind.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

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
  CompleteDecode(second.decode);
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

}  // namespace
}  // namespace baton
