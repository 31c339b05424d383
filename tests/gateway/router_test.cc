#include "gateway/router.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "common/rpc/status_mapping.h"
#include "tests/eventually.h"
#include "tests/gateway/router_fixture.h"

namespace baton {
namespace {

using ::testing::HasSubstr;

TEST_F(RouterTest, SaysWhatIsMissing) {
  auto route = router_.Place(For(10, 20));
  EXPECT_TRUE(absl::IsUnavailable(route.status())) << route.status();
  EXPECT_EQ(ErrorReason(route.status()), "NO_WORKERS");
  EXPECT_THAT(std::string(route.status().message()), HasSubstr("no serving prefill and no decode worker"));

  router_.OnWorker(PrefillSnapshot("p:1", 0));
  WorkerSnapshot draining = DecodeSnapshot("d:1", 0, 10000);
  draining.state = WorkerState::kDraining;
  router_.OnWorker(draining);
  route = router_.Place(For(10, 20));
  EXPECT_THAT(std::string(route.status().message()), HasSubstr("no serving decode worker"));
  EXPECT_THAT(std::string(route.status().message()), HasSubstr("1 decode DRAINING"));
  // Without a state to keep, prefill is enough.
  EXPECT_TRUE(router_.Place(For(10, 0)).ok());
}

TEST_F(RouterTest, APrefillWorkerWithTooMuchToDoTakesNoMore) {
  router_.SetPrefillBacklog(std::chrono::seconds(2));
  const auto report = [&](int64_t queued, double pace, uint64_t number) {
    WorkerSnapshot snapshot = PrefillSnapshot("p:1", queued, 'f', number);
    snapshot.load.set_tokens_per_second(pace);
    router_.OnWorker(snapshot);
  };
  // Its pace is not known: idle seconds say nothing of it.
  report(0, 10, 1);
  router_.OnWorker(PrefillSnapshot("p:1", 1000000, 'f', 2));
  EXPECT_TRUE(router_.Place(For(10, 0)).ok());
  report(7900, 4000, 3);
  absl::StatusOr<Route> first = router_.Place(For(200, 0));
  ASSERT_TRUE(first.ok()) << first.status();
  // 8100 tokens take more than two seconds.
  EXPECT_TRUE(absl::IsResourceExhausted(router_.Place(For(200, 0)).status()));
  // Other workers are not concerned.
  router_.OnWorker(PrefillSnapshot("p:2", 0));
  EXPECT_TRUE(router_.Place(For(200, 0)).ok());
  router_.OnWorkerRemoved("p:2", Stage::kPrefill);
  report(100, 4000, 4);
  EXPECT_TRUE(router_.Place(For(200, 0)).ok());
  // However slow it seems to be, it gets something.
  for (uint64_t number = 5; number < 60; ++number) report(800, 1, number);
  first = absl::StatusOr<Route>();
  EXPECT_TRUE(router_.Place(For(200, 0)).ok());
}

TEST_F(RouterTest, RatherWaitsThanGoesBackToAPrefillWorkerThatFailed) {
  router_.SetPrefillBacklog(std::chrono::seconds(2));
  const auto report = [&](const std::string& endpoint, int64_t queued, uint64_t number) {
    WorkerSnapshot snapshot = PrefillSnapshot(endpoint, queued, 'f', number);
    snapshot.load.set_tokens_per_second(1000);
    router_.OnWorker(snapshot);
  };
  report("p:good", 3000, 1);
  report("p:bad", 0, 1);
  // The good one has three seconds' work.
  EXPECT_EQ(router_.Place(For(10, 0))->prefill.endpoint(), "p:bad");
  router_.Failed(Stage::kPrefill, "p:bad");
  EXPECT_EQ(ErrorReason(router_.Place(For(10, 0)).status()), "PREFILL_MEMORY_FULL");
  // Its next report clears it, but not for those that it has failed.
  report("p:bad", 0, 2);
  EXPECT_EQ(router_.Place(For(10, 0))->prefill.endpoint(), "p:bad");
  EXPECT_TRUE(absl::IsResourceExhausted(router_.Place(For(10, 0), {"p:bad"}).status()));
  report("p:good", 1000, 2);
  EXPECT_EQ(router_.Place(For(10, 0), {"p:bad"})->prefill.endpoint(), "p:good");
  // A worker that has no memory may have none for long.
  router_.Place(For(10, 0), {"p:bad"})->prefill.ReportRefused();
  EXPECT_EQ(router_.Place(For(10, 0), {"p:bad"})->prefill.endpoint(), "p:bad");
}

TEST_F(RouterTest, SilentWorkersGetNothingWhileOthersAreHeard) {
  router_.SetReportsMissing(std::chrono::milliseconds(50));
  router_.OnWorker(PrefillSnapshot("p:1", 0));
  router_.OnWorker(PrefillSnapshot("p:2", 100000));
  router_.OnWorker(DecodeSnapshot("d:1", 0, 100000));
  router_.OnWorker(DecodeSnapshot("d:2", 90000, 100000));
  const auto chosen = [&] {
    const absl::StatusOr<Route> route = router_.Place(For(10, 20));
    return std::make_pair(route->prefill.endpoint(), route->decode.endpoint());
  };
  const auto worse = std::make_pair(std::string("p:2"), std::string("d:2"));
  const auto better = std::make_pair(std::string("p:1"), std::string("d:1"));
  // Only they go on reporting.
  uint64_t number = 1;
  EXPECT_TRUE(Eventually([&] {
    ++number;
    router_.OnWorker(PrefillSnapshot("p:2", 100000, 'f', number));
    router_.OnWorker(DecodeSnapshot("d:2", 90000, 100000, 'f', number));
    return chosen() == worse;
  }));
  // Nobody is heard: nobody is left out.
  EXPECT_TRUE(Eventually([&] { return chosen() == better; }));
}

TEST_F(RouterTest, OtherFingerprintsDoNotCount) {
  router_.OnWorker(PrefillSnapshot("p:1", 0));
  router_.OnWorker(DecodeSnapshot("d:1", 0, 10000, 'g'));
  const auto route = router_.Place(For(10, 20));
  EXPECT_TRUE(absl::IsUnavailable(route.status()));
  EXPECT_THAT(std::string(route.status().message()), HasSubstr("of another fingerprint"));
}

TEST_F(RouterTest, DecodeGoesWhereMostIsFree) {
  router_.OnWorker(PrefillSnapshot("p:1", 0));
  router_.OnWorker(DecodeSnapshot("d:1", 9000, 10000));
  router_.OnWorker(DecodeSnapshot("d:2", 1000, 10000));
  router_.OnWorker(DecodeSnapshot("d:3", 5000, 10000));
  const auto route = router_.Place(For(10, 20));
  ASSERT_TRUE(route.ok()) << route.status();
  EXPECT_EQ(route->decode.endpoint(), "d:2");
}

TEST_F(RouterTest, ClaimsCountUntilReportedThenOnlyOnce) {
  router_.OnWorker(PrefillSnapshot("p:1", 0));
  // A sequence of 100 tokens takes 1000 + 10 * 100 = 2000 bytes; two fit.
  router_.OnWorker(DecodeSnapshot("d:1", 0, 5000));
  auto first = router_.Place(For(10, 100));
  auto second = router_.Place(For(10, 100));
  ASSERT_TRUE(first.ok());
  ASSERT_TRUE(second.ok());
  EXPECT_TRUE(absl::IsResourceExhausted(router_.Place(For(10, 100)).status()));

  // The report includes what was confirmed before it: no double counting.
  first->decode.Confirm(2000);
  second->decode.Confirm(1000);
  router_.OnWorker(DecodeSnapshot("d:1", 3000, 5000, 'f', /*report=*/2));
  auto third = router_.Place(For(10, 100));
  ASSERT_TRUE(third.ok()) << third.status();
  EXPECT_TRUE(absl::IsResourceExhausted(router_.Place(For(10, 100)).status()));

  // What is given back is free at once, whatever the last report said.
  const int before = capacity_changes_;
  first->decode.Release();
  EXPECT_GT(capacity_changes_, before);
  EXPECT_TRUE(router_.Place(For(10, 100)).ok());
}

TEST_F(RouterTest, UnconfirmedClaimsStayOnTopOfReports) {
  router_.OnWorker(PrefillSnapshot("p:1", 0));
  router_.OnWorker(DecodeSnapshot("d:1", 0, 3000));
  auto route = router_.Place(For(10, 100));
  ASSERT_TRUE(route.ok());
  // This report was made before the worker heard of the claim.
  router_.OnWorker(DecodeSnapshot("d:1", 0, 3000, 'f', 2));
  EXPECT_TRUE(absl::IsResourceExhausted(router_.Place(For(10, 100)).status()));
}

TEST_F(RouterTest, WhatNeverFitsIsTheRequestsFault) {
  router_.OnWorker(PrefillSnapshot("p:1", 0));
  router_.OnWorker(DecodeSnapshot("d:1", 0, 5000));
  const auto route = router_.Place(For(10, 1000));
  EXPECT_TRUE(absl::IsInvalidArgument(route.status())) << route.status();
  EXPECT_EQ(ErrorReason(route.status()), "PROMPT_TOO_LONG");
}

// A worker whose states grow needs room for the prompt and the first of the output only, but in all it must fit.
TEST_F(RouterTest, WorkersThatReserveLessTakeMore) {
  router_.OnWorker(PrefillSnapshot("p:1", 0));
  WorkerSnapshot decode = DecodeSnapshot("d:1", 0, 3000);
  auto info = std::make_shared<worker::v1::WorkerInfo>(*decode.info);
  info->mutable_state_bytes()->set_reserve_output(20);
  decode.info = info;
  router_.OnWorker(decode);
  // 1300 bytes at first, 2500 in the end.
  const auto first = router_.Place(For(10, 150));
  ASSERT_TRUE(first.ok()) << first.status();
  const auto second = router_.Place(For(10, 150));
  EXPECT_TRUE(second.ok()) << second.status();
  EXPECT_TRUE(absl::IsResourceExhausted(router_.Place(For(10, 150)).status()));
  EXPECT_EQ(ErrorReason(router_.Place(For(10, 1000)).status()), "PROMPT_TOO_LONG");
}

TEST_F(RouterTest, PrefillGoesWhereLeastIsQueued) {
  router_.OnWorker(PrefillSnapshot("p:1", 500));
  router_.OnWorker(PrefillSnapshot("p:2", 100));
  auto first = router_.Place(For(1000, 0));
  ASSERT_TRUE(first.ok());
  EXPECT_EQ(first->prefill.endpoint(), "p:2");
  // Its own thousand tokens count before the worker reports them.
  auto second = router_.Place(For(10, 0));
  ASSERT_TRUE(second.ok());
  EXPECT_EQ(second->prefill.endpoint(), "p:1");
}

TEST_F(RouterTest, EqualWorkersTakeTurns) {
  router_.OnWorker(PrefillSnapshot("p:1", 0));
  router_.OnWorker(PrefillSnapshot("p:2", 0));
  std::set<std::string> used;
  for (int i = 0; i < 2; ++i) {
    auto route = router_.Place(For(10, 0));
    ASSERT_TRUE(route.ok());
    used.insert(route->prefill.endpoint());
  }
  EXPECT_EQ(used.size(), 2u);
}

TEST_F(RouterTest, FailedAndAvoidedWorkersAreALastResort) {
  router_.OnWorker(PrefillSnapshot("p:1", 0));
  router_.OnWorker(PrefillSnapshot("p:2", 1000));
  {
    auto route = router_.Place(For(10, 0));
    ASSERT_EQ(route->prefill.endpoint(), "p:1");
    route->prefill.ReportFailed();
  }
  EXPECT_EQ(router_.Place(For(10, 0))->prefill.endpoint(), "p:2");
  EXPECT_EQ(router_.Place(For(10, 0), {"p:2"})->prefill.endpoint(), "p:1");
  // Its next report clears it.
  router_.OnWorker(PrefillSnapshot("p:1", 0, 'f', 2));
  EXPECT_EQ(router_.Place(For(10, 0))->prefill.endpoint(), "p:1");
  EXPECT_EQ(router_.Place(For(10, 0), {"p:1"})->prefill.endpoint(), "p:2");
  EXPECT_TRUE(router_.Place(For(10, 0), {"p:1", "p:2"}).ok());
}

TEST_F(RouterTest, ARefusalHoldsUntilTheNextReport) {
  router_.OnWorker(PrefillSnapshot("p:1", 0));
  router_.OnWorker(DecodeSnapshot("d:1", 0, 100000));
  {
    auto route = router_.Place(For(10, 20));
    ASSERT_TRUE(route.ok());
    route->decode.ReportRefused();
  }
  const auto refused = router_.Place(For(10, 20));
  EXPECT_TRUE(absl::IsResourceExhausted(refused.status()));
  EXPECT_EQ(ErrorReason(refused.status()), "DECODE_MEMORY_FULL");
  router_.OnWorker(DecodeSnapshot("d:1", 0, 100000, 'f', 2));
  EXPECT_TRUE(router_.Place(For(10, 20)).ok());
}

TEST_F(RouterTest, ARestartForgetsOldClaims) {
  router_.OnWorker(PrefillSnapshot("p:1", 0));
  router_.OnWorker(DecodeSnapshot("d:1", 0, 3000));
  auto route = router_.Place(For(10, 100));
  ASSERT_TRUE(route.ok());
  WorkerSnapshot restarted = DecodeSnapshot("d:1", 0, 3000, 'f', 2);
  auto info = std::make_shared<worker::v1::WorkerInfo>(*restarted.info);
  info->set_boot_id("another");
  restarted.info = info;
  router_.OnWorker(restarted);
  EXPECT_TRUE(router_.Place(For(10, 100)).ok());
  route->decode.Release();
  router_.OnWorkerRemoved("d:1", Stage::kDecode);
  EXPECT_TRUE(absl::IsUnavailable(router_.Place(For(10, 100)).status()));
}

TEST(StateBytesForTest, SamplesShareThePromptsPages) {
  worker::v1::StateBytes bytes;
  bytes.set_fixed(7);
  bytes.set_page_tokens(10);
  bytes.add_growth()->set_per_token(1);
  auto* window = bytes.add_growth();
  window->set_per_token(100);
  window->set_limit(20);
  Demand demand;
  demand.prompt_tokens = 995;
  demand.state_tokens = 1000;
  EXPECT_EQ(StateBytesFor(bytes, demand), 7 + 1000 + 2000);
  // From the 990th token on, to the end of the page after the last.
  demand.samples = 64;
  EXPECT_EQ(StateBytesFor(bytes, demand), 7 + 1000 + 2000 + (10 + 2000) + 63 * (7 + 20 + 2000));
  demand.samples = 128;
  demand.state_tokens = std::numeric_limits<int64_t>::max() / 2;
  EXPECT_GT(StateBytesFor(bytes, demand), 0) << "no overflow";
}

TEST(StateBytesForTest, GrowsUpToTheWindow) {
  worker::v1::StateBytes bytes;
  bytes.set_fixed(7);
  auto* unlimited = bytes.add_growth();
  unlimited->set_per_token(10);
  auto* window = bytes.add_growth();
  window->set_per_token(100);
  window->set_limit(4);
  EXPECT_EQ(StateBytesFor(bytes, 0), 7);
  EXPECT_EQ(StateBytesFor(bytes, 3), 7 + 30 + 300);
  EXPECT_EQ(StateBytesFor(bytes, 100), 7 + 1000 + 400);
  unlimited->set_per_token(std::numeric_limits<int64_t>::max());
  EXPECT_EQ(StateBytesFor(bytes, 100), std::numeric_limits<int64_t>::max());
}

// --- Circuit breakers.

TEST_F(RouterTest, AWorkerThatKeepsFailingIsPausedUntilItStartsAnew) {
  router_.OnWorker(PrefillSnapshot("p:1", 0));
  router_.OnWorker(PrefillSnapshot("p:2", 100000));
  for (int i = 0; i < 4; ++i) EXPECT_FALSE(router_.Failed(Stage::kPrefill, "p:1"));
  EXPECT_FALSE(router_.PauseOf(Stage::kPrefill, "p:1").paused);
  EXPECT_TRUE(router_.Failed(Stage::kPrefill, "p:1"));
  EXPECT_TRUE(router_.PauseOf(Stage::kPrefill, "p:1").paused);
  EXPECT_LE(router_.PauseOf(Stage::kPrefill, "p:1").left, CircuitBreakerOptions().first_pause);
  EXPECT_FALSE(router_.PauseOf(Stage::kDecode, "p:1").paused) << "there is none";
  // Reports make good for one failure, not for so many in a row.
  router_.OnWorker(PrefillSnapshot("p:1", 0, 'f', 2));
  EXPECT_EQ(router_.Place(For(10, 0))->prefill.endpoint(), "p:2");
  WorkerSnapshot restarted = PrefillSnapshot("p:1", 0, 'f', 3);
  auto info = std::make_shared<worker::v1::WorkerInfo>(*restarted.info);
  info->set_boot_id("another");
  restarted.info = info;
  router_.OnWorker(restarted);
  EXPECT_EQ(router_.Place(For(10, 0))->prefill.endpoint(), "p:1");
}

TEST_F(RouterTest, OneSuccessMakesGoodForFailures) {
  router_.OnWorker(PrefillSnapshot("p:1", 0));
  for (int round = 0; round < 3; ++round) {
    for (int i = 0; i < 4; ++i) EXPECT_FALSE(router_.Failed(Stage::kPrefill, "p:1"));
    router_.Worked(Stage::kPrefill, "p:1");
  }
  EXPECT_TRUE(router_.Place(For(10, 0)).ok());
}

TEST_F(RouterTest, OfAvoidedWorkersTheLessBlamedIsTaken) {
  router_.OnWorker(PrefillSnapshot("p:1", 0));
  router_.OnWorker(PrefillSnapshot("p:2", 100000));
  EXPECT_EQ(router_.Place(For(10, 0), {"p:1", "p:1", "p:2"})->prefill.endpoint(), "p:2");
}

TEST_F(RouterTest, KnowsWhenAWorkerLastGotAnywhere) {
  const Clock::time_point start = Clock::now();
  WorkerSnapshot snapshot = PrefillSnapshot("p:1", 0);
  snapshot.load.set_tokens_done(7);
  router_.OnWorker(snapshot);
  const WorkerPulse first = router_.Pulse(Stage::kPrefill, "p:1");
  EXPECT_GE(first.heard, start);
  EXPECT_GE(first.progressed, start);
  ++snapshot.load_reports;
  router_.OnWorker(snapshot);
  const WorkerPulse second = router_.Pulse(Stage::kPrefill, "p:1");
  EXPECT_GE(second.heard, first.heard);
  EXPECT_EQ(second.progressed, first.progressed);
  EXPECT_EQ(router_.Pulse(Stage::kPrefill, "p:9").heard, Clock::time_point::max());
}

}  // namespace
}  // namespace baton
