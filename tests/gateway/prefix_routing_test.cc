// Which prefill workers the router sends prompts to whose beginnings some of them have cached.
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include <gtest/gtest.h>

#include "tests/gateway/router_fixture.h"

namespace baton {
namespace {

class PrefixRouterTest : public RouterTest {};

// Blocks 1, 2, ... of a prompt.
std::shared_ptr<const std::vector<uint64_t>> Blocks(uint64_t count) {
  auto hashes = std::make_shared<std::vector<uint64_t>>();
  for (uint64_t i = 1; i <= count; ++i) hashes->push_back(i);
  return hashes;
}

// Tells of prompts' beginnings as a worker does: everything so far in `hashes`.
std::shared_ptr<const KnownPrefixes> Knows(const std::vector<uint64_t>& hashes) {
  worker::v1::PrefixChanges changes;
  changes.set_version(1);
  changes.mutable_added()->Add(hashes.begin(), hashes.end());
  auto known = std::make_shared<KnownPrefixes>();
  known->Apply(changes);
  return known;
}

WorkerSnapshot CachingSnapshot(const std::string& endpoint, int64_t queued_tokens, const std::vector<uint64_t>& hashes,
                               uint64_t report = 1) {
  WorkerSnapshot snapshot = PrefillSnapshot(endpoint, queued_tokens, 'f', report);
  snapshot.prefixes = Knows(hashes);
  return snapshot;
}

Demand Prompt(int64_t tokens) {
  Demand demand = For(tokens, 0);
  demand.prefixes = Blocks(static_cast<uint64_t>(tokens - 1) / 64);
  return demand;
}

TEST_F(PrefixRouterTest, PrefillGoesWhereTheLeastIsLeftToCompute) {
  router_.OnWorker(CachingSnapshot("p:1", 0, {}));
  router_.OnWorker(CachingSnapshot("p:2", 0, {1, 2}));
  router_.OnWorker(CachingSnapshot("p:3", 0, {1, 2, 3, 4}));
  router_.OnWorker(CachingSnapshot("p:4", 0, {107, 108, 109}));
  EXPECT_EQ(router_.Place(Prompt(1000))->prefill.endpoint(), "p:3");
  // One block more than it may go on from, which only tells that it has the others.
  EXPECT_EQ(router_.Place(Prompt(200))->prefill.endpoint(), "p:3");
  EXPECT_EQ(router_.Place(Prompt(130))->prefill.endpoint(), "p:2");
}

// Models with recurrent layers tell of snapshots: not of every block before.
TEST_F(PrefixRouterTest, BlocksOnTheWayNeedNotBeKnown) {
  router_.OnWorker(CachingSnapshot("p:1", 0, {1, 2, 3}));
  router_.OnWorker(CachingSnapshot("p:2", 0, {8}));
  EXPECT_EQ(router_.Place(Prompt(1000))->prefill.endpoint(), "p:2");
  EXPECT_EQ(router_.Place(Prompt(500))->prefill.endpoint(), "p:1");
}

TEST_F(PrefixRouterTest, ABusyWorkerIsNotWaitedForLongerThanComputingTakes) {
  // 10 blocks, 640 tokens, are cached at p:1.
  const std::vector<uint64_t> cached = *Blocks(10);
  router_.OnWorker(CachingSnapshot("p:2", 0, {}));
  router_.OnWorker(CachingSnapshot("p:1", 639, cached));
  EXPECT_EQ(router_.Place(Prompt(1000))->prefill.endpoint(), "p:1");
  router_.OnWorker(CachingSnapshot("p:1", 641, cached, 2));
  EXPECT_EQ(router_.Place(Prompt(1000))->prefill.endpoint(), "p:2");
}

// A burst with a common beginning, before any worker reports anew: what was sent counts, by what it costs where it
// went.
TEST_F(PrefixRouterTest, ACommonBeginningDoesNotDrawAHerd) {
  router_.OnWorker(CachingSnapshot("p:1", 0, *Blocks(10)));
  router_.OnWorker(CachingSnapshot("p:2", 0, {}));
  std::vector<Route> routes;
  int64_t tokens[2] = {};
  int requests[2] = {};
  for (int i = 0; i < 40; ++i) {
    routes.push_back(*router_.Place(Prompt(700)));
    const bool second = routes.back().prefill.endpoint() == "p:2";
    ++requests[second ? 1 : 0];
    tokens[second ? 1 : 0] += second ? 700 : 60;
  }
  // The ends of both queues are never further apart than one prompt.
  EXPECT_LE(std::abs(tokens[0] - tokens[1]), 700);
  EXPECT_GT(requests[0], 30);
  EXPECT_GE(requests[1], 2);
}

TEST_F(PrefixRouterTest, AClaimIsForWhatIsComputed) {
  router_.OnWorker(CachingSnapshot("p:1", 0, *Blocks(10)));
  router_.OnWorker(CachingSnapshot("p:2", 100, {}));
  Route first = *router_.Place(Prompt(700));
  EXPECT_EQ(first.prefill.endpoint(), "p:1");
  first.prefill.Confirm();
  // 60 tokens are there now; 50 more, not cached anywhere, go on top of them, 110 more do not.
  EXPECT_EQ(router_.Place(For(50, 0))->prefill.endpoint(), "p:1");
  Route second = *router_.Place(For(50, 0));
  EXPECT_EQ(second.prefill.endpoint(), "p:1");
  EXPECT_EQ(router_.Place(For(50, 0))->prefill.endpoint(), "p:2");
}

TEST_F(PrefixRouterTest, WhatAWorkerForgetsIsNotCounted) {
  router_.OnWorker(CachingSnapshot("p:1", 0, *Blocks(10)));
  router_.OnWorker(CachingSnapshot("p:2", 0, *Blocks(5)));
  EXPECT_EQ(router_.Place(Prompt(1000))->prefill.endpoint(), "p:1");
  router_.OnWorker(CachingSnapshot("p:1", 0, {}, 2));
  EXPECT_EQ(router_.Place(Prompt(1000))->prefill.endpoint(), "p:2");
  EXPECT_EQ(router_.Place(Prompt(1000), {"p:2"})->prefill.endpoint(), "p:1") << "what failed is avoided all the same";
}

}  // namespace
}  // namespace baton
