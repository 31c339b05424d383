#include "common/observe/histogram_counts.h"

#include <gtest/gtest.h>

namespace baton {
namespace {

class HistogramCountsTest : public ::testing::Test {
 protected:
  prometheus::Histogram histogram_{{1, 2, 4, 8}};
};

TEST_F(HistogramCountsTest, NothingHasNoQuantiles) {
  EXPECT_EQ(HistogramCounts().Quantile(0.5), 0);
  EXPECT_EQ(HistogramCounts(histogram_).Quantile(0.99), 0);
  EXPECT_EQ(HistogramCounts(histogram_).count(), 0u);
}

TEST_F(HistogramCountsTest, QuantilesAreInterpolatedInTheirBucket) {
  for (int i = 0; i < 10; ++i) histogram_.Observe(3);
  const HistogramCounts counts(histogram_);
  EXPECT_EQ(counts.count(), 10u);
  EXPECT_DOUBLE_EQ(counts.Quantile(0.5), 3);
  EXPECT_DOUBLE_EQ(counts.Quantile(1), 4);
  EXPECT_DOUBLE_EQ(counts.Quantile(0.25), 2.5);
}

TEST_F(HistogramCountsTest, TheFirstBucketBeginsAtZeroAndTheLastBoundIsTheLargest) {
  histogram_.Observe(0.1);
  EXPECT_DOUBLE_EQ(HistogramCounts(histogram_).Quantile(0.5), 0.5);
  for (int i = 0; i < 99; ++i) histogram_.Observe(1e9);
  EXPECT_DOUBLE_EQ(HistogramCounts(histogram_).Quantile(0.99), 8);
}

TEST_F(HistogramCountsTest, OfAWhileAndOfSeveral) {
  for (int i = 0; i < 100; ++i) histogram_.Observe(0.5);
  const HistogramCounts then(histogram_);
  histogram_.Observe(3);
  HistogramCounts lately(histogram_);
  lately.Subtract(then);
  EXPECT_EQ(lately.count(), 1u);
  EXPECT_DOUBLE_EQ(lately.Quantile(0.5), 3);

  prometheus::Histogram other({1, 2, 4, 8});
  other.Observe(7);
  HistogramCounts both;
  both.Add(lately);
  both.Add(HistogramCounts(other));
  both.Add(HistogramCounts());
  EXPECT_EQ(both.count(), 2u);
  EXPECT_DOUBLE_EQ(both.Quantile(1), 8);
  both.Subtract(HistogramCounts());
  EXPECT_EQ(both.count(), 2u);
}

}  // namespace
}  // namespace baton
