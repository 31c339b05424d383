#include "bench/engine_bench.h"

#include <memory>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "bench/engine_report.h"
#include "bench/model_costs.h"

namespace baton {
namespace {

MachineLimits SomeLimits() {
  MachineLimits limits;
  limits.threads = 2;
  limits.read_bytes_per_second = 10e9;
  limits.sgemm_flops = 100e9;
  limits.float_flops = 80e9;
  limits.bf16_flops = 400e9;
  return limits;
}

// Quick and rough.
constexpr MachineLimitsOptions kMachine = {
    .threads = 2, .matmul_rows = 0, .buffer_bytes = 8 << 20, .seconds_per_figure = 0.001};

TEST(BoundTest, IsTheSlowerOfArithmeticAndMemory) {
  const Bound memory{100e9, 20e9};  // 0.25 s or 1 s of arithmetic, 2 s of memory
  EXPECT_DOUBLE_EQ(memory.Seconds(SomeLimits(), ComputeMode::kBF16), 2.0);
  EXPECT_STREQ(memory.Name(SomeLimits(), ComputeMode::kBF16), "memory");
  const Bound compute{400e9, 20e9};
  EXPECT_DOUBLE_EQ(compute.Seconds(SomeLimits(), ComputeMode::kF32), 4.0);
  EXPECT_STREQ(compute.Name(SomeLimits(), ComputeMode::kF32), "compute");
}

TEST(MachineLimitsTest, MeasuresSomethingOnThisMachine) {
  MachineLimitsOptions machine = kMachine;
  machine.matmul_rows = 4;
  const MachineLimits limits = MachineMeter(machine).last();
  EXPECT_EQ(limits.threads, 2);
  EXPECT_GT(limits.read_bytes_per_second, 0);
  EXPECT_GT(limits.sgemm_flops, 0);
  EXPECT_GT(limits.float_flops, 0);
  EXPECT_GT(limits.bf16_flops, 0);
  EXPECT_GT(limits.matmul_flops, 0);
  EXPECT_FALSE(limits.float_kernel.empty());
  EXPECT_FALSE(limits.bf16_kernel.empty());
}

TEST(MachineLimitsTest, MeanIsOfEachFigure) {
  MachineLimits other = SomeLimits();
  other.read_bytes_per_second = 20e9;
  other.bf16_flops = 200e9;
  const MachineLimits mean = Mean(SomeLimits(), other);
  EXPECT_DOUBLE_EQ(mean.read_bytes_per_second, 15e9);
  EXPECT_DOUBLE_EQ(mean.bf16_flops, 300e9);
  EXPECT_DOUBLE_EQ(mean.sgemm_flops, 100e9);
}

TEST(EngineResultTest, SpeedOfAnotherIsTheMedianOverThePasses) {
  EngineResult fast;
  fast.passes = {{1.0, {}}, {2.0, {}}, {1.0, {}}};
  EngineResult slow;
  slow.passes = {{2.0, {}}, {4.0, {}}, {5.0, {}}};
  EXPECT_DOUBLE_EQ(slow.SpeedOf(fast), 0.5);
  EXPECT_DOUBLE_EQ(fast.SpeedOf(slow), 2.0);
}

class EngineBenchTest : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    auto model = Model::Load(std::string(BATON_BUNDLED_MODELS) + "/" + GetParam(), {.threads = 2});
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = *std::move(model);
  }
  std::unique_ptr<Model> model_;
};

TEST_P(EngineBenchTest, ReportsEveryFigureWithItsBound) {
  EngineRun run;
  run.directory = GetParam();
  run.before = run.after = SomeLimits();
  run.options = {
      .batches = {1, 3}, .prompts = {5, 20}, .contexts = {2, 7}, .decode_steps = 2, .repeats = 3, .chunk_tokens = 8};
  MachineMeter meter(kMachine);
  const absl::Status status =
      RunEngineBench(*model_, run.options, meter, [&](const EngineResult& result) { run.results.push_back(result); });
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(run.results.size(), 6u);
  EXPECT_EQ(run.results[1].prompt, 20);
  EXPECT_EQ(run.results[1].tokens, 20);
  EXPECT_EQ(run.results[1].bound.flops, PrefillFlops(model_->config(), 20));
  EXPECT_EQ(run.results[3].batch, 1);
  EXPECT_EQ(run.results[3].context, 7);
  EXPECT_EQ(run.results[4].batch, 3);
  EXPECT_EQ(run.results[4].tokens, 6);
  EXPECT_EQ(run.results[4].context, 2);
  EXPECT_EQ(run.results[5].context, 7);
  EXPECT_THAT(ContextLine(run.results[5], run.results[4]), testing::HasSubstr("batch 3: context 7 at "));
  for (const EngineResult& result : run.results) {
    ASSERT_EQ(result.passes.size(), 3u);
    EXPECT_LE(result.MinRate(), result.MedianRate());
    EXPECT_LE(result.MedianRate(), result.MaxRate());
    EXPECT_GT(result.RatioToBound(model_->compute()), 0);
  }

  const auto json = nlohmann::json::parse(ReportJson(run, *model_));
  ASSERT_EQ(json["results"].size(), 6u);
  EXPECT_EQ(json["results"][0]["phase"], "prefill");
  EXPECT_EQ(json["results"][2]["batch"], 1);
  EXPECT_EQ(json["model"]["parameters"], model_->parameters());
  EXPECT_EQ(json["machine"]["before"]["read_bytes_per_second"], 10e9);
  EXPECT_THAT(TableLine(run.results[5], model_->compute()), testing::HasSubstr("batch 3, context 7"));
}

TEST_P(EngineBenchTest, SequencesBeyondTheModelAreRefused) {
  EngineBenchOptions options;
  options.prompts = {1 << 20};
  EXPECT_EQ(CheckEngineBench(*model_, options).code(), absl::StatusCode::kInvalidArgument);
  const auto report = [](const EngineResult&) { FAIL() << "nothing may be measured"; };
  MachineMeter meter(kMachine);
  EXPECT_EQ(RunEngineBench(*model_, options, meter, report).code(), absl::StatusCode::kInvalidArgument);
}

INSTANTIATE_TEST_SUITE_P(Bundled, EngineBenchTest, testing::Values("tiny-gemma2", "tiny-recurrentgemma"),
                         [](const auto& info) { return info.param == "tiny-gemma2" ? "Gemma2" : "RecurrentGemma"; });

}  // namespace
}  // namespace baton
