#include "common/rpc/handoff_credit.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <random>
#include <thread>
#include <vector>

namespace baton {
namespace {

using Account = HandoffCredit::Account;

TEST(HandoffCreditTest, TheBoundHolds) {
  HandoffCredit credit(100);
  Account a(&credit, [] {});
  Account b(&credit, [] {});
  EXPECT_TRUE(a.Take(25));
  EXPECT_FALSE(a.Take(1)) << "a quarter each, so that others find room";
  EXPECT_TRUE(b.Take(75)) << "the first message of an account may be as long as there is room";
  EXPECT_EQ(credit.taken(), 100);
  a.Return(25);
  EXPECT_EQ(credit.taken(), 75);
  EXPECT_FALSE(a.Take(26));
  b.Return(75);
  EXPECT_TRUE(a.Take(26)) << "its turn has come";
}

TEST(HandoffCreditTest, AMessageOfAnySizeMayGoAlone) {
  HandoffCredit credit(10);
  Account a(&credit, [] {});
  EXPECT_TRUE(a.Take(1000));
  Account b(&credit, [] {});
  EXPECT_FALSE(b.Take(1));
  a.Return(1000);
  EXPECT_TRUE(b.Take(1));
}

TEST(HandoffCreditTest, ThoseWhoWaitAreServedInOrder) {
  HandoffCredit credit(1);
  std::vector<int> order;
  Account first(&credit, [] {});
  ASSERT_TRUE(first.Take(1));
  std::deque<Account> waiting;
  for (int i = 0; i < 3; ++i) {
    waiting.emplace_back(&credit, [&, i] {
      order.push_back(i);
      EXPECT_TRUE(waiting[i].Take(1));
    });
  }
  for (Account& account : waiting) EXPECT_FALSE(account.Take(1));
  EXPECT_TRUE(order.empty());
  first.Return(1);
  EXPECT_EQ(order, (std::vector<int>{0}));
  EXPECT_FALSE(first.Take(1)) << "behind those who waited";
  waiting[0].Return(1);
  waiting[1].Return(1);
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2}));
}

TEST(HandoffCreditTest, ATurnThatIsNotUsedPasses) {
  HandoffCredit credit(1);
  Account holder(&credit, [] {});
  ASSERT_TRUE(holder.Take(1));
  bool served = false;
  auto leaves = std::make_unique<Account>(&credit, [] { FAIL() << "it has left"; });
  std::unique_ptr<Account> passes;
  passes = std::make_unique<Account>(&credit, [&] { passes->Pass(); });
  std::unique_ptr<Account> takes;
  takes = std::make_unique<Account>(&credit, [&] { served = takes->Take(1); });
  for (Account* account : {leaves.get(), passes.get(), takes.get()}) EXPECT_FALSE(account->Take(1));
  leaves.reset();
  holder.Return(1);
  EXPECT_TRUE(served);
}

TEST(HandoffCreditTest, WhatAnAccountHeldComesBackWithIt) {
  HandoffCredit credit(8);
  bool called = false;
  Account waits(&credit, [&] { called = true; });
  {
    Account a(&credit, [] {});
    ASSERT_TRUE(a.Take(8));
    EXPECT_FALSE(waits.Take(1));
  }
  EXPECT_TRUE(called);
  EXPECT_EQ(credit.taken(), 0);
}

// Many threads send messages of many sizes: everyone gets through, and never is more on its way than allowed.
TEST(HandoffCreditTest, NobodyStarves) {
  constexpr int64_t kBound = 64;
  constexpr int kMessages = 500;
  HandoffCredit credit(kBound);
  struct Sender {
    std::mutex mutex;
    std::condition_variable changed;
    int turns = 0;
    std::unique_ptr<Account> account;
  };
  std::vector<std::unique_ptr<Sender>> senders;
  for (int i = 0; i < 6; ++i) {
    senders.push_back(std::make_unique<Sender>());
    Sender* sender = senders.back().get();
    sender->account = std::make_unique<Account>(&credit, [sender] {
      std::lock_guard<std::mutex> lock(sender->mutex);
      ++sender->turns;
      sender->changed.notify_one();
    });
  }
  std::vector<std::thread> threads;
  for (int i = 0; i < 6; ++i) {
    threads.emplace_back([&, i] {
      Sender& sender = *senders[i];
      std::mt19937_64 random(i);
      for (int message = 0; message < kMessages; ++message) {
        const int64_t bytes = 1 + static_cast<int64_t>(random() % 40);
        while (!sender.account->Take(bytes)) {
          std::unique_lock<std::mutex> lock(sender.mutex);
          sender.changed.wait(lock, [&] { return sender.turns > 0; });
          --sender.turns;
        }
        EXPECT_LE(credit.taken(), kBound);
        sender.account->Return(bytes);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(credit.taken(), 0);
}

}  // namespace
}  // namespace baton
