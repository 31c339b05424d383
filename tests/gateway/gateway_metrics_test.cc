#include "gateway/gateway_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <prometheus/text_serializer.h>

#include "gateway/request_record.h"

namespace baton {
namespace {

using ::testing::HasSubstr;

class GatewayMetricsTest : public ::testing::Test {
 protected:
  std::string Scrape() { return prometheus::TextSerializer().Serialize(metrics_.registry()->Collect()); }
  Metrics metrics_{"gateway"};
  GatewayMetrics gateway_metrics_{&metrics_};
};

TEST_F(GatewayMetricsTest, CountsRequestsByOutcome) {
  ModelMetrics* const tiny = gateway_metrics_.ForModel("tiny");
  EXPECT_EQ(tiny, gateway_metrics_.ForModel("tiny"));
  EXPECT_NE(tiny, gateway_metrics_.unknown());
  tiny->CountRequest(Method::kGenerate, Outcome::kStop, 0.5);
  tiny->CountRequest(Method::kGenerate, Outcome::kStop, 0.5);
  RequestRecord record(Method::kScore, gateway_metrics_.unknown());
  record.Finish(absl::NotFoundError("x"));
  const std::string text = Scrape();
  EXPECT_THAT(
      text, HasSubstr("baton_requests_total{role=\"gateway\",method=\"generate\",model=\"tiny\",outcome=\"stop\"} 2"));
  EXPECT_THAT(
      text,
      HasSubstr("baton_requests_total{role=\"gateway\",method=\"score\",model=\"unknown\",outcome=\"not_found\"} 1"));
  EXPECT_THAT(text, HasSubstr("baton_request_seconds_count{role=\"gateway\",method=\"generate\",model=\"tiny\"} 2"));
}

TEST_F(GatewayMetricsTest, ListsRetriesFromTheStart) {
  gateway_metrics_.ForModel("tiny")->CountRetry(Stage::kDecode);
  const std::string text = Scrape();
  EXPECT_THAT(text, HasSubstr("baton_retries_total{role=\"gateway\",model=\"tiny\",stage=\"reserve\"} 1"));
  EXPECT_THAT(text, HasSubstr("baton_retries_total{role=\"gateway\",model=\"tiny\",stage=\"prefill\"} 0"));
}

TEST(OutcomeOfTest, OneForEveryCode) {
  EXPECT_STREQ(OutcomeName(OutcomeOf(absl::OkStatus())), "ok");
  EXPECT_STREQ(OutcomeName(OutcomeOf(absl::InvalidArgumentError(""))), "invalid");
  EXPECT_STREQ(OutcomeName(OutcomeOf(absl::FailedPreconditionError(""))), "invalid");
  EXPECT_STREQ(OutcomeName(OutcomeOf(absl::NotFoundError(""))), "not_found");
  EXPECT_STREQ(OutcomeName(OutcomeOf(absl::ResourceExhaustedError(""))), "overloaded");
  EXPECT_STREQ(OutcomeName(OutcomeOf(absl::UnavailableError(""))), "unavailable");
  EXPECT_STREQ(OutcomeName(OutcomeOf(absl::DeadlineExceededError(""))), "deadline");
  EXPECT_STREQ(OutcomeName(OutcomeOf(absl::CancelledError(""))), "cancelled");
  EXPECT_STREQ(OutcomeName(OutcomeOf(absl::DataLossError(""))), "data_loss");
  EXPECT_STREQ(OutcomeName(OutcomeOf(absl::InternalError(""))), "internal");
  EXPECT_STREQ(OutcomeName(OutcomeOf(absl::UnknownError(""))), "internal");
}

}  // namespace
}  // namespace baton
