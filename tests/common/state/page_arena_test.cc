// Pages, references and charges; and the memory behind them.
#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <thread>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "common/state/memory_budget.h"

namespace baton {
namespace {

constexpr int64_t kPage = 4096;

PageRef NewPage(MemoryBudget& budget, int64_t bytes = kPage) {
  MemoryReservation reservation = budget.Reserve(bytes).value();
  return reservation.TakePage(bytes);
}

TEST(PageTest, IsChargedFromItsAllocationToItsLastRelease) {
  MemoryBudget budget(3 * kPage);
  MemoryReservation reservation = budget.Reserve(2 * kPage).value();
  PageRef page = reservation.TakePage(kPage);
  EXPECT_EQ(reservation.bytes(), kPage);
  EXPECT_EQ(budget.used(), 2 * kPage);
  EXPECT_FALSE(page.shared());
  PageRef second = page;
  EXPECT_TRUE(page.shared());
  EXPECT_EQ(second.data(), page.data());
  EXPECT_EQ(budget.used(), 2 * kPage);
  reservation = MemoryReservation();
  EXPECT_EQ(budget.used(), kPage);
  page = PageRef();
  EXPECT_FALSE(page);
  EXPECT_FALSE(second.shared());
  EXPECT_EQ(budget.used(), kPage);
  second = PageRef();
  EXPECT_EQ(budget.used(), 0);
  EXPECT_EQ(budget.idle_bytes(), kPage);
}

TEST(PageTest, ReturnsToAReservationWhenNobodyElseHoldsIt) {
  MemoryBudget budget(kPage);
  MemoryReservation reservation = budget.Reserve(kPage).value();
  EXPECT_TRUE(reservation.TakeBack(reservation.TakePage(kPage)));
  EXPECT_EQ(reservation.bytes(), kPage);
  EXPECT_EQ(budget.used(), kPage);
  PageRef page = reservation.TakePage(kPage);
  PageRef reader = page;
  EXPECT_FALSE(reservation.TakeBack(std::move(page)));
  EXPECT_EQ(reservation.bytes(), 0);
  EXPECT_EQ(budget.used(), kPage);
  EXPECT_TRUE(absl::IsResourceExhausted(reservation.Grow(kPage)));
  reservation.GrowEvenIfFull(kPage);
  EXPECT_EQ(budget.used(), 2 * kPage);
  EXPECT_TRUE(absl::IsResourceExhausted(budget.Reserve(0).status()));
  reader = PageRef();
  EXPECT_EQ(budget.used(), kPage);
  reservation.Shrink(kPage);
  EXPECT_EQ(budget.used(), 0);
}

TEST(PageTest, AssignmentToItselfAndFromOthers) {
  MemoryBudget budget(4 * kPage);
  PageRef a = NewPage(budget);
  PageRef b = NewPage(budget);
  const std::byte* data = a.data();
  PageRef& same = a;
  a = same;
  EXPECT_EQ(a.data(), data);
  EXPECT_FALSE(a.shared());
  b = a;
  EXPECT_EQ(budget.used(), kPage);
  b = std::move(a);
  EXPECT_EQ(b.data(), data);
  EXPECT_FALSE(b.shared());
  EXPECT_EQ(budget.used(), kPage);
}

TEST(PageArenaTest, GivesTheWarmestPageFirst) {
  MemoryBudget budget(8 * kPage);
  PageRef a = NewPage(budget);
  PageRef b = NewPage(budget);
  std::byte* const a_data = a.data();
  std::byte* const b_data = b.data();
  EXPECT_NE(a_data, b_data);
  a = PageRef();
  b = PageRef();
  EXPECT_EQ(budget.idle_bytes(), 2 * kPage);
  EXPECT_EQ(NewPage(budget).data(), b_data);
  PageRef first = NewPage(budget);
  PageRef second = NewPage(budget);
  EXPECT_EQ(first.data(), b_data);
  EXPECT_EQ(second.data(), a_data);
  EXPECT_EQ(budget.idle_bytes(), 0);
}

TEST(PageArenaTest, PagesDoNotOverlapWhateverTheirSizes) {
  MemoryBudget budget(int64_t{1} << 30);
  std::mt19937_64 random(3);
  struct Held {
    PageRef page;
    unsigned char mark;
  };
  std::vector<Held> held;
  int64_t charged = 0;
  for (int round = 0; round < 3000; ++round) {
    if (held.empty() || random() % 2 == 0) {
      const int64_t sizes[] = {1, 64, 100, 4096, 70000, int64_t{65} << 20};
      const int64_t bytes = sizes[random() % (round % 100 == 0 ? 6 : 5)];
      held.push_back({NewPage(budget, bytes), static_cast<unsigned char>(random())});
      EXPECT_EQ(reinterpret_cast<uintptr_t>(held.back().page.data()) % kPageAlignment, 0u);
      std::memset(held.back().page.data(), held.back().mark, static_cast<size_t>(std::min<int64_t>(bytes, 70000)));
      charged += bytes;
    } else {
      const size_t at = random() % held.size();
      const PageRef& page = held[at].page;
      for (int64_t i = 0; i < std::min<int64_t>(page.bytes(), 70000); ++i) {
        ASSERT_EQ(page.data()[i], static_cast<std::byte>(held[at].mark));
      }
      charged -= page.bytes();
      held.erase(held.begin() + static_cast<int64_t>(at));
    }
    ASSERT_EQ(budget.used(), charged);
  }
  held.clear();
  EXPECT_EQ(budget.used(), 0);
}

// What one size does not use any more is there for the others: used and idle memory together stay within the budget.
TEST(PageArenaTest, IdleMemoryGoesToOtherSizes) {
  constexpr int64_t kPages = 32;
  MemoryBudget budget(kPages * kPage);
  for (const int64_t bytes : {kPage, 2 * kPage, 8 * kPage, kPage, 4 * kPage}) {
    std::vector<PageRef> pages;
    for (int64_t i = 0; i < kPages * kPage / bytes; ++i) {
      pages.push_back(NewPage(budget, bytes));
      std::memset(pages.back().data(), 7, static_cast<size_t>(bytes));
      EXPECT_LE(budget.used() + budget.idle_bytes(), budget.total());
    }
    EXPECT_EQ(budget.used(), budget.total());
    EXPECT_EQ(budget.idle_bytes(), 0);
    pages.clear();
    EXPECT_EQ(budget.used(), 0);
    EXPECT_EQ(budget.idle_bytes(), budget.total());
  }
}

TEST(PageArenaTest, PagesOutliveTheBudget) {
  absl::optional<MemoryBudget> budget;
  budget.emplace(4 * kPage);
  PageRef page = NewPage(*budget);
  PageRef other = NewPage(*budget);
  std::memset(page.data(), 5, kPage);
  budget.reset();
  other = PageRef();
  EXPECT_EQ(page.data()[kPage - 1], std::byte{5});
}

TEST(PageArenaTest, ReferencesLiveAndDieOnManyThreads) {
  MemoryBudget budget(64 * kPage);
  std::vector<std::thread> threads;
  for (int thread = 0; thread < 4; ++thread) {
    threads.emplace_back([&budget, thread] {
      std::vector<PageRef> held;
      for (int round = 0; round < 500; ++round) {
        MemoryReservation reservation = budget.Reserve(2 * kPage).value();
        PageRef page = reservation.TakePage(kPage);
        std::memset(page.data(), thread, kPage);
        // Readers on other threads, which may hold the last reference or not.
        std::thread reader(
            [copy = page, thread] { EXPECT_EQ(copy.data()[kPage / 2], static_cast<std::byte>(thread)); });
        if (round % 2 == 0) {
          held.push_back(std::move(page));
        } else {
          reservation.TakeBack(std::move(page));
        }
        if (held.size() > 4) held.erase(held.begin());
        reader.join();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(budget.used(), 0);
}

}  // namespace
}  // namespace baton
