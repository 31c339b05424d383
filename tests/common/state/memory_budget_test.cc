#include "common/state/memory_budget.h"

#include <gtest/gtest.h>

#include <limits>
#include <thread>
#include <utility>
#include <vector>

namespace baton {
namespace {

TEST(MemoryBudgetTest, ReservesExactlyWhatItHas) {
  MemoryBudget budget(100);
  absl::StatusOr<MemoryReservation> all = budget.Reserve(100);
  ASSERT_TRUE(all.ok());
  EXPECT_EQ(all->bytes(), 100);
  EXPECT_EQ(budget.used(), 100);
  EXPECT_TRUE(absl::IsResourceExhausted(budget.Reserve(1).status()));
  EXPECT_TRUE(budget.Reserve(0).ok());
}

TEST(MemoryBudgetTest, TheErrorNamesBothFigures) {
  MemoryBudget budget(3 << 20);
  absl::StatusOr<MemoryReservation> one = budget.Reserve(1 << 20);
  const absl::Status status = budget.Reserve(5 << 20).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status));
  EXPECT_NE(status.message().find("5.0 MiB needed"), absl::string_view::npos) << status;
  EXPECT_NE(status.message().find("2.0 MiB of 3.0 MiB free"), absl::string_view::npos) << status;
}

TEST(MemoryBudgetTest, DestructionReleases) {
  MemoryBudget budget(100);
  { ASSERT_TRUE(budget.Reserve(60).ok()); }
  EXPECT_EQ(budget.used(), 0);
}

TEST(MemoryBudgetTest, MovedReservationsCountOnce) {
  MemoryBudget budget(100);
  MemoryReservation a = budget.Reserve(30).value();
  MemoryReservation b = std::move(a);
  EXPECT_EQ(b.bytes(), 30);
  EXPECT_EQ(a.bytes(), 0);
  EXPECT_EQ(budget.used(), 30);
  MemoryReservation c = budget.Reserve(50).value();
  c = std::move(b);  // releases its 50
  EXPECT_EQ(budget.used(), 30);
  MemoryReservation& itself = c;
  c = std::move(itself);
  EXPECT_EQ(c.bytes(), 30);
  EXPECT_EQ(budget.used(), 30);
}

TEST(MemoryBudgetTest, NonsenseIsRefused) {
  MemoryBudget budget(100);
  EXPECT_TRUE(absl::IsInvalidArgument(budget.Reserve(-1).status()));
  MemoryReservation some = budget.Reserve(50).value();
  EXPECT_TRUE(absl::IsResourceExhausted(budget.Reserve(std::numeric_limits<int64_t>::max()).status()));
  EXPECT_EQ(budget.used(), 50);
}

TEST(MemoryBudgetTest, ThreadsNeverOvercommit) {
  MemoryBudget budget(10);
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      for (int round = 0; round < 2000; ++round) {
        absl::StatusOr<MemoryReservation> mine = budget.Reserve(3);
        EXPECT_LE(budget.used(), 10);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(budget.used(), 0);
}

}  // namespace
}  // namespace baton
