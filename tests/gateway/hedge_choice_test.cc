// Which workers a second attempt goes to, when there is none, and how many there are in all.
#include <gtest/gtest.h>

#include <string>

#include "tests/gateway/hedge_fixture.h"

namespace baton {
namespace {

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
  ExpectNoWorkersForHedge(*client);
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
  ExpectNoWorkersForHedge(*client);
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
  CompleteDecode(second);
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
