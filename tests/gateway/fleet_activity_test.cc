// Rates and latencies of a window: what is in it, and what is not.
#include "gateway/fleet_activity.h"

#include <cmath>
#include <functional>
#include <limits>
#include <memory>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/gateway/fleet_snapshots.h"

namespace baton {
namespace {

using std::chrono::seconds;

class FleetActivityTest : public ::testing::Test {
 protected:
  v1::GetStatusResponse At(int second, int window = 10) const {
    v1::GetStatusResponse response;
    activity_.Describe(seconds(window), start_ + seconds(second), &response);
    return response;
  }
  // Until, not at, `to`.
  void SampleSeconds(int from, int to) {
    for (int second = from; second < to; ++second) activity_.Sample(start_ + seconds(second));
  }
  // What the only worker reports.
  void Report(int second, const std::function<void(worker::v1::Load*)>& fill) {
    if (workers_.empty()) workers_.push_back(DecodeSnapshot("d:1", 0, 1000));
    fill(&workers_[0].load);
    workers_[0].load_time = start_ + seconds(second);
    ++workers_[0].load_reports;
  }
  void Restart(const std::string& boot_id) {
    auto info = std::make_shared<worker::v1::WorkerInfo>(*workers_[0].info);
    info->set_boot_id(boot_id);
    workers_[0].info = info;
  }

  const Clock::time_point start_ = Clock::time_point(seconds(1000));
  Metrics metrics_{"gateway"};
  GatewayMetrics gateway_metrics_{&metrics_};
  ModelMetrics& tiny_ = *gateway_metrics_.ForModel("tiny");
  std::vector<WorkerSnapshot> workers_;
  FleetActivity activity_{&gateway_metrics_, [this] { return workers_; }, start_};
};

TEST_F(FleetActivityTest, AYoungGatewaySaysHowLittleItHasSeen) {
  tiny_.streamed_tokens.Increment(30);
  const v1::GetStatusResponse status = At(3);
  EXPECT_EQ(status.recent().seconds(), 3);
  EXPECT_EQ(status.recent().output_tokens(), 30);
  EXPECT_EQ(status.since_start().seconds(), 3);
}

TEST_F(FleetActivityTest, OnlyWhatIsInTheWindowCounts) {
  SampleSeconds(1, 5);
  tiny_.CountRequest(Method::kGenerate, Outcome::kStop, 1);
  tiny_.time_to_first_token.Observe(100);
  SampleSeconds(5, 20);
  tiny_.CountRequest(Method::kGenerateStream, Outcome::kLength, 1);
  tiny_.CountRequest(Method::kScore, Outcome::kOverloaded, 1);
  tiny_.time_to_first_token.Observe(0.003);
  SampleSeconds(20, 25);

  const v1::GetStatusResponse status = At(25);
  EXPECT_EQ(status.recent().seconds(), 10);
  EXPECT_EQ(status.recent().completed(), 1);
  EXPECT_EQ(status.recent().refused(), 1);
  EXPECT_EQ(status.recent().time_to_first_token().count(), 1);
  EXPECT_LT(status.recent().time_to_first_token().p99_seconds(), 0.1);
  EXPECT_EQ(status.since_start().seconds(), 25);
  EXPECT_EQ(status.since_start().completed(), 2);
  EXPECT_GT(status.since_start().time_to_first_token().p99_seconds(), 10);
  // A longer window reaches further back, a shorter one less far.
  EXPECT_EQ(At(25, 60).recent().completed(), 2);
  EXPECT_EQ(At(25, 2).recent().completed(), 0);
}

TEST_F(FleetActivityTest, AMinuteIsRemembered) {
  tiny_.streamed_tokens.Increment(1);
  SampleSeconds(1, 200);
  tiny_.streamed_tokens.Increment(2);
  EXPECT_EQ(At(199, 60).recent().seconds(), 60);
  EXPECT_EQ(At(199, 60).recent().output_tokens(), 2);
}

TEST_F(FleetActivityTest, EveryEndOfARequestIsOneOfFive) {
  for (size_t outcome = 0; outcome < static_cast<size_t>(Outcome::kCount); ++outcome) {
    tiny_.CountRequest(Method::kGenerate, static_cast<Outcome>(outcome), 1);
  }
  // These need no workers.
  tiny_.CountRequest(Method::kTokenize, Outcome::kOk, 1);
  tiny_.CountRequest(Method::kListModels, Outcome::kOk, 1);
  const v1::Activity recent = At(1).recent();
  EXPECT_EQ(recent.completed(), 4);
  EXPECT_EQ(recent.cancelled(), 1);
  EXPECT_EQ(recent.refused(), 1);
  EXPECT_EQ(recent.rejected(), 4);
  EXPECT_EQ(recent.failed(), 4);
}

TEST_F(FleetActivityTest, RecoveriesRetriesAndPauses) {
  tiny_.CountResume("decode", "lost");
  tiny_.CountResume("prefill", "stalled");
  tiny_.CountRetry(Stage::kDecode);
  tiny_.CountPause(Stage::kPrefill);
  tiny_.admitted_prompt_tokens.Increment(100);
  const v1::Activity recent = At(1).recent();
  EXPECT_EQ(recent.resumes(), 2);
  EXPECT_EQ(recent.retries(), 1);
  EXPECT_EQ(recent.worker_pauses(), 1);
  EXPECT_EQ(recent.prompt_tokens(), 100);
}

TEST_F(FleetActivityTest, ModelsAreToldApartAndSummedUp) {
  SampleSeconds(1, 5);
  // It appears when its first worker does.
  ModelMetrics* const late = gateway_metrics_.ForModel("late");
  late->streamed_tokens.Increment(5);
  late->running.Set(2);
  tiny_.streamed_tokens.Increment(7);
  tiny_.waiting.Set(3);
  gateway_metrics_.unknown()->CountRequest(Method::kGenerate, Outcome::kNotFound, 0);
  const v1::GetStatusResponse status = At(5);
  ASSERT_EQ(status.models_size(), 2);
  EXPECT_EQ(status.models(0).model(), "late");
  EXPECT_EQ(status.models(0).running_requests(), 2);
  EXPECT_EQ(status.models(0).recent().output_tokens(), 5);
  EXPECT_EQ(status.models(1).queued_requests(), 3);
  EXPECT_EQ(status.models(1).recent().output_tokens(), 7);
  EXPECT_EQ(status.recent().output_tokens(), 12);
  EXPECT_EQ(status.recent().rejected(), 1);
}

TEST_F(FleetActivityTest, WorkersRatesAreOfTheWindow) {
  for (int second = 0; second <= 20; ++second) {
    Report(second, [&](worker::v1::Load* load) {
      // A batch of 4 that becomes one of 8 after ten seconds.
      load->set_steps_done(10 * second);
      load->set_step_sequences(second <= 10 ? 40 * second : 400 + 80 * (second - 10));
      load->set_prompt_tokens_computed(second <= 10 ? 100 * second : 1000);
      load->set_prompt_tokens_cached(second <= 10 ? 0 : 50 * (second - 10));
    });
    activity_.Sample(start_ + seconds(second));
  }
  const WorkerRates rates = activity_.RatesOf(workers_[0], seconds(10));
  EXPECT_DOUBLE_EQ(rates.steps_per_second, 10);
  EXPECT_DOUBLE_EQ(rates.sequences_per_step, 8);
  EXPECT_DOUBLE_EQ(rates.cached_prompt_share.value(), 1);
  EXPECT_NEAR(activity_.RatesOf(workers_[0], seconds(60)).sequences_per_step, 6, 0.001);
  EXPECT_NEAR(activity_.RatesOf(workers_[0], seconds(60)).cached_prompt_share.value(), 1.0 / 3, 0.001);
}

TEST_F(FleetActivityTest, OneReportIsNoRate) {
  Report(0, [](worker::v1::Load* load) { load->set_steps_done(1000); });
  EXPECT_EQ(activity_.RatesOf(workers_[0], seconds(10)).steps_per_second, 0) << "never sampled";
  activity_.Sample(start_ + seconds(1));
  activity_.Sample(start_ + seconds(2));
  const WorkerRates rates = activity_.RatesOf(workers_[0], seconds(10));
  EXPECT_EQ(rates.steps_per_second, 0);
  EXPECT_EQ(rates.sequences_per_step, 0);
  EXPECT_FALSE(rates.cached_prompt_share.has_value());
}

TEST_F(FleetActivityTest, ARestartedWorkerBeginsAnew) {
  Report(0, [](worker::v1::Load* load) { load->set_steps_done(1000); });
  activity_.Sample(start_);
  Restart("another boot");
  Report(2, [](worker::v1::Load* load) { load->set_steps_done(10); });
  EXPECT_EQ(activity_.RatesOf(workers_[0], seconds(10)).steps_per_second, 0);
  activity_.Sample(start_ + seconds(2));
  Report(3, [](worker::v1::Load* load) { load->set_steps_done(30); });
  EXPECT_DOUBLE_EQ(activity_.RatesOf(workers_[0], seconds(10)).steps_per_second, 20);
}

TEST_F(FleetActivityTest, NonsenseFromAWorkerDoesNoHarm) {
  constexpr int64_t kSmallest = std::numeric_limits<int64_t>::min();
  constexpr int64_t kLargest = std::numeric_limits<int64_t>::max();
  const auto report_all = [&](int second, int64_t value) {
    Report(second, [&](worker::v1::Load* load) {
      load->set_steps_done(value);
      load->set_step_sequences(value);
      load->set_prompt_tokens_computed(value);
      load->set_prompt_tokens_cached(value);
    });
    activity_.Sample(start_ + seconds(second));
  };
  report_all(0, kLargest);
  report_all(1, kSmallest);
  WorkerRates rates = activity_.RatesOf(workers_[0], seconds(10));
  EXPECT_EQ(rates.steps_per_second, 0);
  EXPECT_FALSE(rates.cached_prompt_share.has_value());
  report_all(2, kLargest);
  rates = activity_.RatesOf(workers_[0], seconds(1));
  EXPECT_TRUE(std::isfinite(rates.steps_per_second));
  EXPECT_DOUBLE_EQ(rates.cached_prompt_share.value(), 0.5);
}

TEST_F(FleetActivityTest, WorkersThatAreNotListedAreForgotten) {
  Report(0, [](worker::v1::Load* load) { load->set_steps_done(10); });
  activity_.Sample(start_);
  const std::vector<WorkerSnapshot> gone = std::move(workers_);
  workers_.clear();
  activity_.Sample(start_ + seconds(1));
  workers_ = gone;
  Report(2, [](worker::v1::Load* load) { load->set_steps_done(20); });
  EXPECT_EQ(activity_.RatesOf(workers_[0], seconds(10)).steps_per_second, 0);
}

TEST_F(FleetActivityTest, SamplesByItselfWhileTheTimersRun) {
  Timers timers;
  FleetActivity activity(&gateway_metrics_, [this] { return workers_; });
  activity.Start(&timers);
  timers.Stop();
  v1::GetStatusResponse response;
  activity.Describe(seconds(10), Clock::now(), &response);
  EXPECT_EQ(response.models_size(), 1);
}

}  // namespace
}  // namespace baton
