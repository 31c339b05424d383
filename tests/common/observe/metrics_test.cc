#include "common/observe/metrics.h"

#include <prometheus/text_serializer.h>

#include <algorithm>
#include <sstream>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace baton {
namespace {

using testing::HasSubstr;

std::string Scrape(const Metrics& metrics) {
  return prometheus::TextSerializer().Serialize(metrics.registry()->Collect());
}

TEST(MetricsTest, EverySeriesCarriesTheRole) {
  Metrics metrics("decode");
  metrics.AddCounter("baton_things_total", "Things.", {{"model", "m"}}).Increment(3);
  const std::string text = Scrape(metrics);
  EXPECT_THAT(text, HasSubstr("baton_things_total{role=\"decode\",model=\"m\"} 3"));
  EXPECT_THAT(text, HasSubstr("baton_build_info{role=\"decode\",version="));
}

TEST(MetricsTest, TheSameLabelsGiveTheSameSeries) {
  Metrics metrics("prefill");
  prometheus::Counter& a = metrics.AddCounter("baton_things_total", "Things.", {{"model", "m"}});
  prometheus::Counter& b = metrics.AddCounter("baton_things_total", "Things.", {{"model", "m"}});
  prometheus::Counter& other = metrics.AddCounter("baton_things_total", "Things.", {{"model", "n"}});
  EXPECT_EQ(&a, &b);
  EXPECT_NE(&a, &other);
}

TEST(MetricsDeathTest, OneLabelSetForOneName) {
  Metrics metrics("prefill");
  metrics.AddCounter("baton_things_total", "Things.", {{"model", "m"}});
  EXPECT_DEATH(metrics.AddCounter("baton_things_total", "Things.", {{"kind", "m"}}), "check failed");
}

TEST(MetricsTest, BucketsAscend) {
  for (const auto* buckets : {&TtftBuckets(), &InterTokenBuckets(), &RequestSecondsBuckets(), &StepSecondsBuckets(),
                              &BytesBuckets(), &CountBuckets(), &TokensBuckets()}) {
    EXPECT_TRUE(std::is_sorted(buckets->begin(), buckets->end()));
    EXPECT_EQ(std::adjacent_find(buckets->begin(), buckets->end()), buckets->end());
  }
  EXPECT_DOUBLE_EQ(RequestSecondsBuckets().back(), 163.84);
  EXPECT_DOUBLE_EQ(StepSecondsBuckets().back(), 8.192);
  EXPECT_DOUBLE_EQ(BytesBuckets().back(), 4.0 * 1024 * 1024 * 1024);
}

TEST(MetricsServerTest, PicksAPortAndSaysWhenItIsTaken) {
  Metrics metrics("gateway");
  MetricsServer first(&metrics);
  ASSERT_TRUE(first.Start("127.0.0.1:0").ok());
  ASSERT_GT(first.port(), 0);
  MetricsServer second(&metrics);
  const absl::Status taken = second.Start("127.0.0.1:" + std::to_string(first.port()));
  EXPECT_EQ(taken.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(taken.message()), HasSubstr(std::to_string(first.port())));
}

}  // namespace
}  // namespace baton
