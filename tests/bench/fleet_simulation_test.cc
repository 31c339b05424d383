#include "bench/fleet_simulation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "bench/arrival_trace.h"

namespace baton {
namespace {

using ::testing::HasSubstr;

// A millisecond a prompt token; a decode step takes 10 ms and 1 more for each sequence.
ServiceTimes SimpleTimes() { return ServiceTimes({{1000, 1.0}}, {{1, {{1, 0.011}}}, {11, {{1, 0.021}}}}); }

Workload Trace(const std::string& text) { return ParseArrivalTrace(text, "trace.csv").value(); }

FleetOptions NoDelays() {
  FleetOptions options;
  options.request_seconds = 0;
  options.handoff_seconds = 0;
  return options;
}

TEST(FleetSimulationTest, OneRequestTakesWhatItsPartsTake) {
  FleetOptions options;
  options.request_seconds = 0.5;
  options.handoff_seconds = 0.25;
  const SimulationResult result = SimulateFleet(options, SimpleTimes(), Trace("3,1000,5"));
  // There and back, and the prompt.
  EXPECT_NEAR(result.report.time_to_first_token.max, 0.5 + 1 + 0.5, 1e-9);
  EXPECT_EQ(result.report.inter_token.count, 4);
  EXPECT_NEAR(result.report.inter_token.max, 0.25 + 0.011, 1e-9);
  EXPECT_NEAR(result.report.inter_token.p50, 0.011, 1e-9);
  EXPECT_NEAR(result.report.end_to_end.max, 2 + 0.25 + 4 * 0.011, 1e-9);
  EXPECT_NEAR(result.prefill_busy, 1 / result.end, 1e-9);
  EXPECT_NEAR(result.decode_busy, 4 * 0.011 / result.end, 1e-9);
  EXPECT_EQ(result.report.output_tokens, 5);
}

TEST(FleetSimulationTest, SequencesShareDecodeSteps) {
  // Prompts of one token each, computed in one step, then three tokens each, together.
  const SimulationResult result = SimulateFleet(NoDelays(), SimpleTimes(), Trace("0,1,4\n0,1,4\n"));
  EXPECT_EQ(result.report.completed, 2);
  EXPECT_NEAR(result.report.inter_token.p50, 0.012, 1e-9);
  EXPECT_GT(result.mean_batch, 1.4);
  // Alone with a batch of one they take turns.
  FleetOptions turns = NoDelays();
  turns.max_batch = 1;
  const SimulationResult slower = SimulateFleet(turns, SimpleTimes(), Trace("0,1,4\n0,1,4\n"));
  EXPECT_EQ(slower.mean_batch, 1);
  EXPECT_GT(slower.end, result.end);
}

TEST(FleetSimulationTest, WorkersDivideTheLoad) {
  std::string trace;
  for (int i = 0; i < 8; ++i) trace += "0,1000,1\n";
  FleetOptions options = NoDelays();
  EXPECT_NEAR(SimulateFleet(options, SimpleTimes(), Trace(trace)).report.time_to_first_token.max, 8, 1e-9);
  options.prefill_workers = 4;
  EXPECT_NEAR(SimulateFleet(options, SimpleTimes(), Trace(trace)).report.time_to_first_token.max, 2, 1e-9);
}

TEST(FleetSimulationTest, CachedBeginningsAreNotComputed) {
  FleetOptions options = NoDelays();
  options.cached_share = 0.8;
  // 768 of 1000: whole blocks of 64.
  const SimulationResult result = SimulateFleet(options, SimpleTimes(), Trace("0,1000,1"));
  EXPECT_NEAR(result.report.time_to_first_token.max, 0.232, 1e-9);
}

TEST(FleetSimulationTest, WhatFindsNoMemoryIsRefused) {
  FleetOptions options = NoDelays();
  options.decode_memory = 25'000;
  options.state_bytes_token = 10;
  // 1010 tokens are 10,100 bytes: two fit at a time, the fourth comes when the first is done.
  const SimulationResult result =
      SimulateFleet(options, SimpleTimes(), Trace("0,1000,10\n0.1,1000,10\n0.2,1000,10\n9,1000,10"));
  EXPECT_EQ(result.refused, 1);
  EXPECT_EQ(result.report.failed, 1);
  EXPECT_EQ(result.report.completed, 3);
  EXPECT_EQ(result.first_token_in_time, 0.75);
}

// Poisson arrivals at a server of constant time s and load r wait r s / (2 (1 - r)) on average (Pollaczek-Khinchine).
TEST(FleetSimulationTest, QueueIsAsLongAsTheorySays) {
  WorkloadOptions load;
  load.rate = 700;
  load.requests = 40'000;
  load.prompt_tokens = LengthDistribution::Parse("fixed:1").value();
  load.output_tokens = load.prompt_tokens;
  load.max_tokens = 100;
  FleetOptions options = NoDelays();
  options.chunk_tokens = 1;  // one prompt at a time
  const SimulationResult result = SimulateFleet(options, SimpleTimes(), MakeWorkload(load).value());
  const double busy = 0.7;
  const double wait = busy * 0.001 / (2 * (1 - busy));
  EXPECT_NEAR(result.prefill_busy, busy, 0.02);
  EXPECT_NEAR(result.report.time_to_first_token.mean, 0.001 + wait, 0.1 * wait);
}

WorkloadOptions Chat(double rate) {
  WorkloadOptions load;
  load.rate = rate;
  load.requests = 400;
  load.prompt_tokens = LengthDistribution::Parse("uniform:200:800").value();
  load.output_tokens = LengthDistribution::Parse("fixed:50").value();
  load.max_tokens = 10'000;
  return load;
}

TEST(RecommendFleetTest, FewestThatMeetTheTargets) {
  FleetOptions options = NoDelays();
  options.bounds = {2.0, 0.03};
  const ServiceTimes times = SimpleTimes();
  const Workload workload = MakeWorkload(Chat(10)).value();
  const absl::optional<FleetSize> size = RecommendFleet(options, times, workload, 0.95, 32);
  ASSERT_TRUE(size.has_value());
  EXPECT_GE(size->result.first_token_in_time, 0.95);
  EXPECT_GE(size->result.tokens_in_time, 0.95);
  // 10/s of 0.5 s each keep five workers busy, and one fewer of either role would not do.
  EXPECT_GE(size->prefill_workers, 5);
  options.decode_workers = size->decode_workers;
  options.prefill_workers = size->prefill_workers - 1;
  EXPECT_LT(SimulateFleet(options, times, workload).first_token_in_time, 0.95);
  if (size->decode_workers > 1) {
    options.prefill_workers = size->prefill_workers;
    options.decode_workers = size->decode_workers - 1;
    EXPECT_LT(SimulateFleet(options, times, workload).tokens_in_time, 0.95);
  }
  // More load, more workers.
  const Workload heavy = MakeWorkload(Chat(30)).value();
  const absl::optional<FleetSize> larger = RecommendFleet(options, times, heavy, 0.95, 64);
  ASSERT_TRUE(larger.has_value());
  EXPECT_GE(larger->prefill_workers, 2 * size->prefill_workers);
}

TEST(RecommendFleetTest, SaysWhenNoFleetIsEnough) {
  FleetOptions options = NoDelays();
  options.bounds.time_to_first_token = 0.1;  // a prompt alone takes more
  EXPECT_FALSE(RecommendFleet(options, SimpleTimes(), Trace("0,1000,1"), 0.95, 8).has_value());
}

TEST(ServiceTimesTest, LinearBetweenAndBeyondWhatWasMeasured) {
  const ServiceTimes times({{100, 0.2}, {200, 0.3}}, {{1, {{100, 0.01}, {300, 0.03}}}, {3, {{100, 0.02}}}});
  EXPECT_NEAR(times.Prefill(0, 150), 0.25, 1e-12);
  EXPECT_NEAR(times.Prefill(100, 200), 0.1, 1e-12);
  EXPECT_NEAR(times.Prefill(200, 400), 0.2, 1e-12);
  EXPECT_NEAR(times.DecodeStep(1, 200), 0.02, 1e-12);
  EXPECT_NEAR(times.DecodeStep(2, 100), 0.015, 1e-12);
  EXPECT_NEAR(times.DecodeStep(5, 100), 0.03, 1e-12);
  EXPECT_GT(times.DecodeStep(1, 0), 0);
}

TEST(ServiceTimesTest, ReadsWhatTheEngineBenchmarkWrites) {
  const absl::StatusOr<ServiceTimes> times = ServiceTimes::FromEngineJson(R"({"results": [
    {"phase": "prefill", "prompt": 100, "tokens": 100, "seconds": [0.3, 0.1, 0.2]},
    {"phase": "decode", "batch": 4, "context": 128, "tokens": 64, "seconds": [0.16]}]})",
                                                                          "engine.json");
  ASSERT_TRUE(times.ok()) << times.status();
  EXPECT_NEAR(times->Prefill(0, 50), 0.1, 1e-12);
  EXPECT_NEAR(times->DecodeStep(4, 128), 0.01, 1e-12);
}

TEST(ServiceTimesTest, SaysWhatIsWrongWithAFile) {
  const std::string prefill = R"({"phase": "prefill", "prompt": 100, "tokens": 100, "seconds": [0.1]})";
  const std::string decode = R"({"phase": "decode", "batch": 1, "context": 1, "tokens": 4, "seconds": [0.1]})";
  for (const std::string& bad :
       {std::string("["), std::string("{}"), std::string(R"({"results": 3})"), std::string(R"({"results": [3]})"),
        "{\"results\": [" + prefill + "]}", "{\"results\": [" + decode + "]}",
        "{\"results\": [" + prefill +
            R"(, {"phase": "decode", "batch": 0, "context": 1, "tokens": 4, "seconds": [1]}]})",
        "{\"results\": [" + decode + R"(, {"phase": "prefill", "prompt": 9, "tokens": 4, "seconds": [-1]}]})",
        "{\"results\": [" + decode + R"(, {"phase": "prefill", "prompt": 9, "tokens": 4, "seconds": []}]})"}) {
    const absl::StatusOr<ServiceTimes> times = ServiceTimes::FromEngineJson(bad, "engine.json");
    EXPECT_EQ(times.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(times.status().message()), HasSubstr("engine.json")) << bad;
  }
}

TEST(ArrivalTraceTest, ReadsLines) {
  const Workload workload = Trace("seconds,prompt_tokens,output_tokens\r\n10, 5,6\n\n10.5,7,8\n");
  ASSERT_EQ(workload.items.size(), 2);
  EXPECT_EQ(workload.items[0].arrival, 0);
  EXPECT_EQ(workload.items[1].arrival, 0.5);
  EXPECT_EQ(workload.items[1].prompt_tokens, 7);
  EXPECT_EQ(workload.items[1].output_tokens, 8);
}

TEST(ArrivalTraceTest, NamesTheLineThatIsWrong) {
  for (const char* const bad :
       {"1,2", "1,2,3,4", "x,2,3", "nan,2,3", "inf,2,3", "1,0,3", "1,2,-3", "1,2,3.5", "0,99999999999,1", "-5,1,1"}) {
    const absl::StatusOr<Workload> workload = ParseArrivalTrace("0,1,1\n" + std::string(bad) + "\n", "trace.csv");
    EXPECT_EQ(workload.status().code(), absl::StatusCode::kInvalidArgument) << bad;
    EXPECT_THAT(std::string(workload.status().message()), HasSubstr("trace.csv, line 2: ")) << bad;
  }
  EXPECT_THAT(std::string(ParseArrivalTrace("\n", "trace.csv").status().message()), HasSubstr("no requests"));
}

}  // namespace
}  // namespace baton
