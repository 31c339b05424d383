// Which prompts the router has decode workers compute, and which of them.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>

#include "tests/gateway/router_fixture.h"

namespace baton {
namespace {

// A decode worker that computes prompts, in chunks of 16.
WorkerSnapshot ComputingDecode(const std::string& endpoint, int64_t running = 0, uint64_t report = 1) {
  WorkerSnapshot snapshot = DecodeSnapshot(endpoint, 0, 100000, 'f', report);
  auto info = std::make_shared<worker::v1::WorkerInfo>(*snapshot.info);
  info->set_local_prefill_chunk(16);
  snapshot.info = info;
  snapshot.load.set_running(running);
  return snapshot;
}

Demand LocalFor(int64_t prompt_tokens) {
  Demand demand = For(prompt_tokens, prompt_tokens + 10);
  demand.may_be_local = true;
  return demand;
}

class LocalRouterTest : public RouterTest {
 protected:
  void SetUp() override { router_.OnWorker(PrefillSnapshot("p:1", 0)); }
  // Where the prompt of a request goes that is over at once, unless `keep`.
  PromptPlace Place(const Demand& demand, const Avoid& avoid = {}, bool keep = false) {
    absl::StatusOr<Route> route = router_.Place(demand, avoid);
    EXPECT_TRUE(route.ok()) << route.status();
    EXPECT_EQ(bool(route->prefill), route->prompt_place == PromptPlace::kPrefillWorker);
    endpoint_ = route->decode.endpoint();
    const PromptPlace place = route->prompt_place;
    if (keep) kept_.push_back(*std::move(route));
    return place;
  }
  std::string endpoint_;
  std::vector<Route> kept_;
};

TEST_F(LocalRouterTest, OnlyWorkersThatOfferItComputeOnlyWhatIsShort) {
  router_.OnWorker(DecodeSnapshot("d:1", 0, 200000));
  EXPECT_EQ(Place(LocalFor(8)), PromptPlace::kPrefillWorker);
  // The one with less room is the one that can.
  router_.OnWorker(ComputingDecode("d:2"));
  EXPECT_EQ(Place(LocalFor(8)), PromptPlace::kDecodeWorker);
  EXPECT_EQ(endpoint_, "d:2");
  Demand scored = LocalFor(8);
  scored.may_be_local = false;
  EXPECT_EQ(Place(scored), PromptPlace::kPrefillWorker);
  EXPECT_EQ(Place(LocalFor(8), {"d:2"}), PromptPlace::kPrefillWorker);
  EXPECT_EQ(endpoint_, "d:1");
  // Busy prefill workers or not: long prompts are theirs.
  router_.OnWorker(PrefillSnapshot("p:1", 100000, 'f', 2));
  EXPECT_EQ(Place(LocalFor(kLocalPrefillTokens)), PromptPlace::kDecodeWorker);
  EXPECT_EQ(Place(LocalFor(kLocalPrefillTokens + 1)), PromptPlace::kPrefillWorker);
}

TEST_F(LocalRouterTest, GoesWhereItIsSooner) {
  // An idle worker is as good as another, and needs no handoff; beside streams the idle prefill worker is sooner.
  router_.OnWorker(ComputingDecode("d:1"));
  EXPECT_EQ(Place(LocalFor(8)), PromptPlace::kDecodeWorker);
  router_.OnWorker(ComputingDecode("d:1", /*running=*/8, 2));
  EXPECT_EQ(Place(LocalFor(8)), PromptPlace::kPrefillWorker);
  // Two steps of 5 and 3 tokens beside 8 sequences: half of 18 rows, twice 18, and 8; against 8 + 10 and the queue.
  router_.OnWorker(PrefillSnapshot("p:1", 34, 'f', 2));
  EXPECT_EQ(Place(LocalFor(8)), PromptPlace::kPrefillWorker);
  router_.OnWorker(PrefillSnapshot("p:1", 35, 'f', 3));
  EXPECT_EQ(Place(LocalFor(8)), PromptPlace::kDecodeWorker);
}

TEST_F(LocalRouterTest, RequestsOfABurstSeeEachOther) {
  router_.OnWorker(ComputingDecode("d:1"));
  EXPECT_EQ(Place(LocalFor(10), {}, /*keep=*/true), PromptPlace::kDecodeWorker);
  EXPECT_EQ(Place(LocalFor(10)), PromptPlace::kPrefillWorker);
  // Over, it is no load any more, even where a report had counted it.
  kept_[0].decode.Confirm(1000);
  router_.OnWorker(ComputingDecode("d:1", /*running=*/1, 2));
  EXPECT_EQ(Place(LocalFor(10)), PromptPlace::kPrefillWorker);
  kept_.clear();
  EXPECT_EQ(Place(LocalFor(10)), PromptPlace::kDecodeWorker);
}

TEST_F(LocalRouterTest, FullPrefillWorkersDoNotMatterToShortPrompts) {
  router_.OnWorker(ComputingDecode("d:1", /*running=*/64));
  absl::StatusOr<Route> first = router_.Place(LocalFor(8));
  ASSERT_TRUE(first.ok() && first->prefill);
  first->prefill.ReportRefused();
  EXPECT_EQ(Place(LocalFor(8)), PromptPlace::kDecodeWorker);
  EXPECT_TRUE(absl::IsResourceExhausted(router_.Place(LocalFor(1000)).status()));
}

TEST_F(LocalRouterTest, ASessionIsGoneOnWithWhereItIs) {
  const WorkerSnapshot holder = ComputingDecode("d:1");
  router_.OnWorker(holder);
  router_.OnWorker(ComputingDecode("d:2"));
  Demand demand = LocalFor(1000);
  demand.session_worker = holder.connection;
  demand.session_tokens = 990;
  EXPECT_EQ(Place(demand), PromptPlace::kDecodeWorkerFromSession);
  EXPECT_EQ(endpoint_, "d:1");
  demand.session_tokens = 1000 - kLocalPrefillTokens - 1;
  EXPECT_EQ(Place(demand), PromptPlace::kPrefillWorker);
  // Nowhere else: it is the whole prompt there.
  demand.session_tokens = 990;
  EXPECT_EQ(Place(demand, {"d:1"}), PromptPlace::kPrefillWorker);
  // Full there: a short conversation may begin anew.
  WorkerSnapshot full = holder;
  full.load.set_state_bytes_used(99999);
  full.load_reports = 2;
  router_.OnWorker(full);
  EXPECT_EQ(Place(demand), PromptPlace::kPrefillWorker);
  Demand brief = LocalFor(12);
  brief.session_worker = holder.connection;
  brief.session_tokens = 10;
  EXPECT_EQ(Place(brief), PromptPlace::kDecodeWorker);
  EXPECT_EQ(endpoint_, "d:2");
}

}  // namespace
}  // namespace baton
