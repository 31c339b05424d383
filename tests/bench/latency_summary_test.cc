#include "bench/latency_summary.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace baton {
namespace {

TEST(LatencySummaryTest, NearestRank) {
  std::vector<double> hundred;
  for (int i = 100; i >= 1; --i) hundred.push_back(i);
  const LatencySummary summary = Summarize(hundred);
  EXPECT_EQ(summary.count, 100);
  EXPECT_EQ(summary.mean, 50.5);
  EXPECT_EQ(summary.p50, 50);
  EXPECT_EQ(summary.p90, 90);
  EXPECT_EQ(summary.p95, 95);
  EXPECT_EQ(summary.p99, 99);
  EXPECT_EQ(summary.max, 100);
}

TEST(LatencySummaryTest, FewSamples) {
  const LatencySummary one = Summarize({3.5});
  EXPECT_EQ(one.p50, 3.5);
  EXPECT_EQ(one.p99, 3.5);
  const LatencySummary two = Summarize({2, 1});
  EXPECT_EQ(two.p50, 1);
  EXPECT_EQ(two.p90, 2);
  EXPECT_EQ(Percentile({1, 2, 3}, 0.001), 1);
  EXPECT_EQ(Percentile({1, 2, 3}, 100), 3);
}

TEST(LatencySummaryTest, NoSamplesHaveNoPercentiles) {
  const LatencySummary none = Summarize({});
  EXPECT_EQ(none.count, 0);
  EXPECT_TRUE(std::isnan(none.p50));
  EXPECT_TRUE(std::isnan(none.max));
}

}  // namespace
}  // namespace baton
