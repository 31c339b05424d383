// Who is served before whom.
#include "gateway/fair_order.h"

#include <algorithm>
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace baton {
namespace {

using ::testing::ElementsAre;

const Clock::time_point kStart{};

class FairOrderTest : public ::testing::Test {
 protected:
  void Ask(const std::string& client, int64_t work, int priority = 0, Clock::duration after = {}) {
    waiting_.push_back({client, order_.Enter(client, priority, work, kStart + after)});
  }
  // Serves `count` of those that wait, all `after` the start.
  std::vector<std::string> Serve(size_t count, Clock::duration after = {}) {
    std::vector<std::string> served;
    for (; count > 0 && !waiting_.empty(); --count) {
      const auto next = std::min_element(waiting_.begin(), waiting_.end(), [&](const auto& a, const auto& b) {
        return order_.Before(a.place, b.place, kStart + after);
      });
      order_.Serve(next->place);
      served.push_back(next->client);
      waiting_.erase(next);
    }
    return served;
  }

  struct Waiting {
    std::string client;
    FairOrder::Place place;
  };
  FairOrder order_{{.aging = std::chrono::seconds(5)}};
  std::vector<Waiting> waiting_;
};

TEST_F(FairOrderTest, OneClientIsServedInOrderOfArrival) {
  for (const int64_t work : {100, 1, 50}) Ask("a", work);
  EXPECT_EQ(waiting_[0].place.arrival, 1u);
  Serve(1);
  EXPECT_EQ(waiting_.front().place.arrival, 2u);
}

TEST_F(FairOrderTest, AClientThatAsksForMuchWaitsForThoseThatAskForLittle) {
  for (int i = 0; i < 4; ++i) Ask("much", 1000);
  for (int i = 0; i < 3; ++i) Ask("little", 100);
  EXPECT_THAT(Serve(7), ElementsAre("much", "little", "little", "little", "much", "much", "much"));
}

TEST_F(FairOrderTest, WhoWasAwayHasNeitherCreditNorDebt) {
  Ask("a", 1000);
  Serve(1);
  // The first of a's has begun at 0, so that its next would begin at 1000; b begins now.
  Ask("a", 1000);
  Ask("b", 1000);
  EXPECT_THAT(Serve(2), ElementsAre("b", "a"));
  // Virtual time is 1000: nobody gets what b left unused before it came.
  Ask("c", 1000);
  Ask("b", 1000);
  Ask("c", 1000);
  EXPECT_THAT(Serve(3), ElementsAre("c", "b", "c"));
}

TEST_F(FairOrderTest, PriorityComesFirstAndGrowsWithTheWait) {
  Ask("a", 100, 0);
  Ask("b", 100, 2, std::chrono::seconds(1));
  EXPECT_THAT(Serve(1, std::chrono::seconds(1)), ElementsAre("b"));
  // 15 s later a's counts three more, one that just came two.
  Ask("b", 1, 2, std::chrono::seconds(15));
  EXPECT_THAT(Serve(1, std::chrono::seconds(15)), ElementsAre("a"));
}

TEST_F(FairOrderTest, AgingCanBeTurnedOff) {
  FairOrder order({.aging = Clock::duration::zero()});
  const FairOrder::Place low = order.Enter("a", 0, 1, kStart);
  const FairOrder::Place high = order.Enter("a", 1, 1, kStart + std::chrono::hours(1));
  EXPECT_TRUE(order.Before(high, low, kStart + std::chrono::hours(2)));
}

TEST_F(FairOrderTest, WhatIsWithdrawnDoesNotCount) {
  order_.Enter("a", 0, 5000, kStart);
  order_.Withdraw("a", 5000);
  order_.Withdraw("stranger", 1);
  Ask("a", 100);
  Ask("b", 100);
  EXPECT_THAT(Serve(2), ElementsAre("a", "b"));
}

TEST_F(FairOrderTest, ClientsThatHadNoMoreThanTheirShareAreForgotten) {
  for (int i = 0; i < 10000; ++i) {
    order_.Serve(order_.Enter("client " + std::to_string(i), 0, 10, kStart));
    // One busy client drives virtual time.
    order_.Serve(order_.Enter("busy", 0, 1000, kStart));
  }
  EXPECT_LE(order_.clients(), 2048u);
}

}  // namespace
}  // namespace baton
