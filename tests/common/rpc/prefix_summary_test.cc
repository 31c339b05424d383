#include "common/rpc/prefix_summary.h"

#include <gtest/gtest.h>

#include <random>
#include <set>
#include <vector>

namespace baton {
namespace {

using worker::v1::PrefixChanges;

PrefixChanges Describe(const PrefixSummary& summary, uint64_t* told) {
  PrefixChanges changes;
  summary.Describe(told, &changes);
  return changes;
}

TEST(PrefixSummaryTest, TellsEverythingThenChanges) {
  PrefixSummary summary;
  EXPECT_EQ(summary.version(), 0u);
  summary.Set(5, true);
  summary.Set(6, true);
  summary.Set(6, true);   // known
  summary.Set(7, false);  // never there
  EXPECT_EQ(summary.version(), 2u);
  uint64_t told = 0;
  PrefixChanges changes = Describe(summary, &told);
  EXPECT_EQ(changes.base(), 0u);
  EXPECT_EQ(changes.added_size(), 2);
  EXPECT_EQ(told, 2u);
  summary.Set(5, false);
  summary.Set(8, true);
  summary.Set(9, true);
  summary.Set(9, false);
  changes = Describe(summary, &told);
  EXPECT_EQ(changes.base(), 2u);
  ASSERT_EQ(changes.added_size(), 1);
  EXPECT_EQ(changes.added(0), 8u);
  EXPECT_EQ(changes.removed_size(), 2);
}

// Watchers that look now and then, one that starts late, and history that is longer than what is kept.
TEST(PrefixSummaryTest, AllWatchersKnowWhatThereIs) {
  std::mt19937_64 random(1);
  PrefixSummary summary;
  std::set<uint64_t> present;
  std::vector<uint64_t> told(4, 0);
  std::vector<KnownPrefixes> known(4);
  for (int round = 0; round < 60; ++round) {
    const int changes = round % 20 == 19 ? 10000 : static_cast<int>(random() % 50);
    for (int i = 0; i < changes; ++i) {
      const uint64_t hash = random() % 2000;
      const bool on = random() % 2 == 0;
      summary.Set(hash, on);
      on ? static_cast<void>(present.insert(hash)) : static_cast<void>(present.erase(hash));
    }
    for (size_t watcher = 0; watcher < known.size(); ++watcher) {
      if (watcher == 3 && round < 30) continue;
      if (round % (watcher + 1) != 0) continue;
      known[watcher].Apply(Describe(summary, &told[watcher]));
      ASSERT_EQ(known[watcher].size(), present.size());
      for (const uint64_t hash : present) ASSERT_TRUE(known[watcher].Contains(hash));
    }
  }
}

TEST(PrefixSummaryTest, IsBounded) {
  PrefixSummary summary;
  for (uint64_t hash = 0; hash < 2 * kMaxToldPrefixes; ++hash) summary.Set(hash, true);
  uint64_t told = 0;
  EXPECT_EQ(Describe(summary, &told).added_size(), static_cast<int>(kMaxToldPrefixes));
}

TEST(KnownPrefixesTest, WhatDoesNotFollowIsNotBelieved) {
  KnownPrefixes known;
  PrefixChanges changes;
  changes.set_version(3);
  changes.add_added(1);
  known.Apply(changes);
  EXPECT_TRUE(known.Contains(1));
  changes.set_base(2);  // from a version never heard
  changes.set_version(4);
  known.Apply(changes);
  EXPECT_EQ(known.size(), 0u);
  changes.set_base(4);
  known.Apply(changes);
  EXPECT_EQ(known.size(), 0u);
  changes.set_base(0);
  known.Apply(changes);
  EXPECT_EQ(known.size(), 1u);
}

TEST(KnownPrefixesTest, APeerCannotFillTheMemory) {
  KnownPrefixes known;
  PrefixChanges changes;
  for (uint64_t i = 0; i < 2 * kMaxToldPrefixes + 1; ++i) changes.add_added(i);
  changes.set_version(1);
  known.Apply(changes);
  EXPECT_EQ(known.size(), 0u);
}

}  // namespace
}  // namespace baton
