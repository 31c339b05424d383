// Where a second attempt goes, and how long a prompt ought to take: what the router and a worker's pace say.
#include <chrono>
#include <limits>
#include <memory>
#include <string>

#include <gtest/gtest.h>

#include "gateway/prompt_pace.h"
#include "tests/gateway/router_fixture.h"

namespace baton {
namespace {

using std::chrono::milliseconds;
using std::chrono::minutes;
using std::chrono::seconds;

class HedgePlacementTest : public RouterTest {
 protected:
  static constexpr int64_t kPrompt = 100;
  static constexpr int64_t kState = 200;

  void SetUp() override {
    for (const char* endpoint : {"p:1", "p:2"}) router_.OnWorker(PrefillSnapshot(endpoint, 0));
    for (const char* endpoint : {"d:1", "d:2"}) router_.OnWorker(DecodeSnapshot(endpoint, 0, 100000));
  }
  // "prefill decode"; "" when there is none.
  std::string Beside1(bool other_prefill, bool other_decode, const Avoid& avoid = {}) {
    const Beside running{"p:1", "d:1", other_prefill, other_decode};
    const absl::optional<Route> route = router_.PlaceBeside(For(kPrompt, kState), avoid, running);
    if (!route.has_value()) return "";
    return (route->prefill ? route->prefill.endpoint() : "none") + " " + route->decode.endpoint();
  }
  std::string PrefillIsLate(const Avoid& avoid = {}) { return Beside1(true, false, avoid); }
  std::string DecodeIsLate(const Avoid& avoid = {}) { return Beside1(false, true, avoid); }
};

TEST_F(HedgePlacementTest, RatherOnNoneOfTheSameWorkers) {
  EXPECT_EQ(PrefillIsLate(), "p:2 d:2");
  EXPECT_EQ(DecodeIsLate(), "p:2 d:2");
}

TEST_F(HedgePlacementTest, NeverOnTheLateOne) {
  router_.OnWorkerRemoved("d:2", Stage::kDecode);
  EXPECT_EQ(PrefillIsLate(), "p:2 d:1");
  EXPECT_EQ(DecodeIsLate(), "");
  EXPECT_EQ(Beside1(true, true), "");
  router_.OnWorker(DecodeSnapshot("d:2", 0, 100000, 'f', 2));
  router_.OnWorkerRemoved("p:2", Stage::kPrefill);
  EXPECT_EQ(PrefillIsLate(), "");
  EXPECT_EQ(DecodeIsLate(), "p:1 d:2");
}

TEST_F(HedgePlacementTest, OnlyWhereLittleIsBefore) {
  router_.OnWorker(PrefillSnapshot("p:2", kPrompt, 'f', 2));
  EXPECT_EQ(PrefillIsLate(), "p:2 d:2");
  router_.OnWorker(PrefillSnapshot("p:2", kPrompt + 1, 'f', 3));
  EXPECT_EQ(PrefillIsLate(), "");
  EXPECT_EQ(DecodeIsLate(), "p:1 d:2");
}

TEST_F(HedgePlacementTest, OnlyWhereThereIsRoom) {
  router_.OnWorker(DecodeSnapshot("d:2", 99000, 100000, 'f', 2));
  EXPECT_EQ(PrefillIsLate(), "p:2 d:1");
  router_.OnWorker(DecodeSnapshot("d:1", 99000, 100000, 'f', 2));
  EXPECT_EQ(PrefillIsLate(), "");
}

TEST_F(HedgePlacementTest, OnlyWhereItMayWork) {
  EXPECT_EQ(PrefillIsLate({"p:2"}), "") << "it has failed this request";
  router_.Failed(Stage::kPrefill, "p:2");
  EXPECT_EQ(PrefillIsLate(), "") << "it has failed since its last report";
  router_.OnWorker(PrefillSnapshot("p:2", 0, 'f', 2));
  EXPECT_EQ(PrefillIsLate(), "p:2 d:2");
  WorkerSnapshot draining = PrefillSnapshot("p:2", 0, 'f', 3);
  draining.state = WorkerState::kDraining;
  router_.OnWorker(draining);
  EXPECT_EQ(PrefillIsLate(), "");
}

TEST_F(HedgePlacementTest, ClaimsAreGivenBack) {
  for (int i = 0; i < 1000; ++i) {
    // A second one would find too much before it.
    ASSERT_EQ(PrefillIsLate(), "p:2 d:2");
    absl::optional<Route> held = router_.PlaceBeside(For(kPrompt, kState), {}, {"p:1", "d:1", true, true});
    ASSERT_TRUE(held.has_value());
    EXPECT_EQ(held->tokens_before, 0);
    EXPECT_EQ(held->tokens_to_compute, kPrompt);
  }
}

TEST_F(HedgePlacementTest, OneThatIsLateComesAfterOthersUntilItsNextReport) {
  absl::StatusOr<Route> route = router_.Place(For(kPrompt, kState));
  ASSERT_TRUE(route.ok());
  const std::string late = route->prefill.endpoint();
  const std::string other = late == "p:1" ? "p:2" : "p:1";
  route->prefill.ReportLate();
  route = absl::CancelledError();
  for (int i = 0; i < 3; ++i) {
    route = router_.Place(For(kPrompt, kState));
    ASSERT_TRUE(route.ok());
    EXPECT_EQ(route->prefill.endpoint(), other);
    route = absl::CancelledError();
  }
  EXPECT_FALSE(router_.PauseOf(Stage::kPrefill, late).paused);
  router_.OnWorker(PrefillSnapshot(late, 0, 'f', 2));
  router_.OnWorker(PrefillSnapshot(other, 1000, 'f', 2));
  route = router_.Place(For(kPrompt, kState));
  ASSERT_TRUE(route.ok());
  EXPECT_EQ(route->prefill.endpoint(), late);
}

TEST_F(HedgePlacementTest, TimeIsPredictedFromWhatWorkersHaveShown) {
  EXPECT_FALSE(router_.PromptTime("p:1", 1000).has_value()) << "nobody has shown anything";
  router_.NotePromptTime("p:1", 990, seconds(1));
  EXPECT_EQ(*router_.PromptTime("p:1", 1990), seconds(2));
  EXPECT_EQ(*router_.PromptTime("p:2", 1990), seconds(2)) << "as others of its kind";
  router_.NotePromptTime("p:2", 990, seconds(2));
  EXPECT_EQ(*router_.PromptTime("p:2", 1990), seconds(4));
  router_.OnWorker(PrefillSnapshot("p:3", 0, 'g'));
  EXPECT_FALSE(router_.PromptTime("p:3", 1990).has_value()) << "of another kind";
  EXPECT_FALSE(router_.PromptTime("nobody", 1990).has_value());
  router_.NotePromptTime("nobody", 990, seconds(1));
  // Another process begins anew.
  WorkerSnapshot restarted = PrefillSnapshot("p:2", 0, 'f', 2);
  auto info = std::make_shared<worker::v1::WorkerInfo>(*restarted.info);
  info->set_boot_id("another");
  restarted.info = info;
  router_.OnWorker(restarted);
  EXPECT_EQ(*router_.PromptTime("p:2", 1990), seconds(2));
}

TEST(PromptPaceTest, TheBestCountsAndFades) {
  const Clock::time_point start = Clock::now();
  PromptPace pace;
  EXPECT_FALSE(pace.known());
  pace.Computed(990, seconds(1), start);
  EXPECT_EQ(*pace.TimeFor(990), seconds(1));
  // It had to wait for others.
  pace.Computed(990, seconds(10), start);
  EXPECT_EQ(*pace.TimeFor(990), seconds(1));
  pace.Computed(990, milliseconds(500), start);
  EXPECT_EQ(*pace.TimeFor(990), milliseconds(500));
  pace.Computed(990, seconds(10), start + minutes(1));
  EXPECT_EQ(*pace.TimeFor(990), seconds(1));
  pace.Computed(990, seconds(10), start + minutes(100));
  EXPECT_EQ(*pace.TimeFor(990), seconds(10)) << "slower for good";
}

TEST(PromptPaceTest, WhateverIsToldItIsATime) {
  PromptPace pace;
  pace.Computed(-5, Clock::duration::zero(), Clock::now());
  EXPECT_GE(*pace.TimeFor(-1), Clock::duration::zero());
  EXPECT_LE(*pace.TimeFor(std::numeric_limits<int64_t>::max()), PromptPace::kLongest);
}

}  // namespace
}  // namespace baton
