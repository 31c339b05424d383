// Which workers the router names to keep copies of a request's states, and where a request goes that has one.
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/gateway/router_fixture.h"

namespace baton {
namespace {

class StandbyTest : public RouterTest {
 protected:
  void SetUp() override { router_.OnWorker(PrefillSnapshot("p:1", 0)); }

  // A decode worker with so much memory, of which so much is for copies, and which makes copies itself or not.
  WorkerSnapshot Add(const std::string& endpoint, int64_t memory, int64_t for_copies, int copies_every = 64,
                     const std::string& told = "") {
    WorkerSnapshot snapshot = DecodeSnapshot(endpoint, 0, memory);
    auto info = std::make_shared<worker::v1::WorkerInfo>(*snapshot.info);
    info->set_local_prefill_chunk(16);
    info->set_checkpoint_bytes(for_copies);
    info->set_checkpoint_tokens(copies_every);
    info->set_endpoint(told);
    snapshot.info = info;
    router_.OnWorker(snapshot);
    return snapshot;
  }
  std::vector<std::string> Standbys(const Avoid& avoid = {}) {
    absl::StatusOr<Route> route = router_.Place(For(100, 200), avoid);
    EXPECT_TRUE(route.ok()) << route.status();
    decode_ = route->decode.endpoint();
    std::vector<std::string> names;
    for (const Standby& standby : route->standbys) names.push_back(standby.endpoint);
    return names;
  }
  std::string decode_;
};

using Names = std::vector<std::string>;

TEST_F(StandbyTest, OnlyWhereCopiesAreMadeAndKept) {
  Add("a:1", 300000, 1000, /*copies_every=*/0);
  Add("b:1", 200000, 1000);
  EXPECT_EQ(Standbys(), Names());
  Add("a:1", 300000, 1000);
  EXPECT_EQ(Standbys(), Names({"b:1"}));
  EXPECT_EQ(decode_, "a:1");
  Add("b:1", 200000, 0);
  EXPECT_EQ(Standbys(), Names());
  Add("b:1", 200000, 1000, 64, "10.0.0.2:7201");
  EXPECT_EQ(Standbys(), Names({"10.0.0.2:7201"})) << "as workers reach it";
}

TEST_F(StandbyTest, RatherOnAnotherHostAndInTurns) {
  Add("a:1", 900000, 1000);
  Add("a:2", 100000, 1000);
  Add("b:1", 100000, 1000);
  Add("c:1", 100000, 1000);
  const Names first = Standbys();
  const Names second = Standbys();
  EXPECT_EQ(decode_, "a:1");
  EXPECT_EQ(first, Names({"b:1", "c:1"}));
  EXPECT_EQ(second, Names({"c:1", "b:1"}));
  EXPECT_EQ(Standbys({"b:1"}), Names({"c:1", "a:2"}));
  router_.OnWorkerRemoved("b:1", Stage::kDecode);
  router_.OnWorkerRemoved("c:1", Stage::kDecode);
  EXPECT_EQ(Standbys(), Names({"a:2"}));
}

TEST_F(StandbyTest, WhoHasACopyGoesOnFromItIfThatIsSooner) {
  const WorkerSnapshot holder = Add("a:1", 300000, 1000);
  Add("b:1", 900000, 1000);
  Demand demand = For(1000, 2000);
  demand.resumes = true;
  demand.may_be_local = true;
  demand.session_worker = holder.connection;
  demand.session_tokens = 940;
  absl::StatusOr<Route> route = router_.Place(demand);
  ASSERT_TRUE(route.ok()) << route.status();
  // An idle prefill worker is sooner with 60 tokens, which take four steps here.
  EXPECT_EQ(route->prompt_place, PromptPlace::kPrefillWorker);
  router_.OnWorker(PrefillSnapshot("p:1", 500, 'f', 2));
  route = router_.Place(demand);
  ASSERT_TRUE(route.ok()) << route.status();
  EXPECT_EQ(route->prompt_place, PromptPlace::kDecodeWorkerFromSession);
  EXPECT_EQ(route->decode.endpoint(), "a:1");
  EXPECT_FALSE(route->prefill);
  // A conversation's next turn is held to the limit for prompts.
  demand.resumes = false;
  route = router_.Place(demand);
  ASSERT_TRUE(route.ok()) << route.status();
  EXPECT_EQ(route->prompt_place, PromptPlace::kPrefillWorker);
}

}  // namespace
}  // namespace baton
