// Every golden checkpoint, in every precision of the weights, against the reference's numbers; and proof that the
// checks can fail.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>

#include "tests/golden/checks.h"
#include "tests/golden/sequence.h"
#include "tests/golden/test_checkpoints.h"

namespace baton {
namespace {

ModelOptions WithWeights(WeightPrecision weights) {
  ModelOptions options;
  options.weights = weights;
  options.threads = 2;
  return options;
}

class GoldenTest : public testing::TestWithParam<std::tuple<std::string, WeightPrecision>> {};

TEST_P(GoldenTest, ComputesWhatTheReferenceComputed) {
  const auto& [name, weights] = GetParam();
  const absl::StatusOr<TestCheckpoint> checkpoint = TestCheckpoint::Golden(name);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const absl::StatusOr<GoldenReport> report =
      CheckGolden(checkpoint->directory(), GoldenPath(name), WithWeights(weights));
  ASSERT_TRUE(report.ok()) << report.status();
  EXPECT_TRUE(AllPassed(report->results)) << ReportTable(*report);
  // Nothing was left out: prompts, chunkings and batches alone are more than 40 checks.
  EXPECT_GE(report->results.size(), 45u);
  for (const CheckResult& result : report->results) EXPECT_GT(result.values, 0) << result.name;
}

std::string CaseName(const testing::TestParamInfo<GoldenTest::ParamType>& info) {
  std::string name = std::get<0>(info.param) + "_" + std::string(WeightPrecisionName(std::get<1>(info.param)));
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
}

INSTANTIATE_TEST_SUITE_P(
    All, GoldenTest,
    testing::Combine(testing::Values("gemma-tiny", "gemma-tiny-bf16", "gemma2-tiny", "gemma2-tiny-bf16",
                                     "gemma2-tiny-bf16-sharded", "recurrentgemma-tiny", "recurrentgemma-tiny-bf16"),
                     testing::Values(WeightPrecision::kF32, WeightPrecision::kBf16, WeightPrecision::kInt8,
                                     WeightPrecision::kInt8A8, WeightPrecision::kInt4)),
    CaseName);

// The wrong window moves logits by less than one, and only of prompts longer than it: the f32 bounds must notice.
TEST(GoldenCheckTest, NoticesAWindowOneKeyTooSmall) {
  const absl::StatusOr<TestCheckpoint> checkpoint = TestCheckpoint::Golden("recurrentgemma-tiny");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  ModelOptions options = WithWeights(WeightPrecision::kF32);
  options.config.deepmind_window = false;
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(checkpoint->directory(), options);
  ASSERT_TRUE(model.ok()) << model.status();
  const absl::StatusOr<GoldenFile> golden = GoldenFile::Open(GoldenPath("recurrentgemma-tiny"), (*model)->config());
  ASSERT_TRUE(golden.ok()) << golden.status();
  std::vector<CheckResult> results;
  const absl::Status status = CheckReference(**model, *golden, &results);
  ASSERT_TRUE(status.ok()) << status;
  for (const CheckResult& result : results) {
    // As long as the window, the prompt and its state are the same.
    if (result.name == "p16.logits" || result.name == "p16.kv") {
      EXPECT_TRUE(result.passed) << result.name;
    } else if (result.name == "p17.logits" || result.name == "all40.logits") {
      EXPECT_FALSE(result.passed) << result.name;
    }
  }
}

TEST(GoldenCheckTest, NoticesOtherWeights) {
  const absl::StatusOr<TestCheckpoint> checkpoint = TestCheckpoint::Golden("gemma-tiny");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  const absl::StatusOr<GoldenReport> report =
      CheckGolden(checkpoint->directory(), GoldenPath("gemma2-tiny"), WithWeights(WeightPrecision::kBf16));
  // Same vocabulary and hidden size, so the files fit together; layers and numbers do not.
  EXPECT_FALSE(report.ok() && AllPassed(report->results));
}

TEST(GoldenCheckTest, RefusesAFileThatIsNotGolden) {
  const TestCheckpoint bundled = TestCheckpoint::Bundled("tiny-gemma2");
  const absl::StatusOr<GoldenReport> report =
      CheckGolden(bundled.directory(), bundled.directory() + "/model.safetensors", WithWeights(WeightPrecision::kBf16));
  ASSERT_FALSE(report.ok());
  EXPECT_NE(std::string(report.status().message()).find("not a golden file"), std::string::npos) << report.status();
}

TEST(GoldenCheckTest, RefusesAnotherVocabulary) {
  const absl::StatusOr<GoldenReport> report =
      CheckGolden(TestCheckpoint::Bundled("tiny-gemma2").directory(), GoldenPath("gemma2-tiny"),
                  WithWeights(WeightPrecision::kBf16));
  ASSERT_FALSE(report.ok());
  EXPECT_NE(std::string(report.status().message()).find("golden file"), std::string::npos) << report.status();
}

TEST(DifferenceTest, MeasuresAndBounds) {
  Difference difference;
  difference.Add({1.0f, 2.0f}, {1.0f, 4.0f});
  EXPECT_DOUBLE_EQ(difference.Finish("", {}).max_abs, 2.0);
  EXPECT_DOUBLE_EQ(difference.Finish("", {}).rms, std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(difference.Finish("", {}).relative_rms, std::sqrt(4.0 / 17.0));
  EXPECT_TRUE(difference.Finish("", {.max_abs = 2.0, .rms = 1.5}).passed);
  EXPECT_FALSE(difference.Finish("", {.max_abs = 1.9}).passed);
  EXPECT_FALSE(difference.Finish("", {.rms = 1.4}).passed);
  EXPECT_FALSE(difference.Finish("", {.relative_rms = 0.4}).passed);
}

TEST(DifferenceTest, NaNAndNothingFail) {
  Difference difference;
  EXPECT_FALSE(difference.Finish("nothing compared", {.max_abs = 1}).passed);
  difference.Add({std::numeric_limits<float>::quiet_NaN()}, {0.0f});
  EXPECT_FALSE(difference.Finish("NaN", {.max_abs = 1}).passed);
}

TEST(ReportTest, JsonSaysWhatFailed) {
  GoldenReport report;
  report.directory = "dir";
  report.results.push_back(CountCheck("fine", 10, 0));
  report.results.push_back(CountCheck("broken", 10, 3));
  const nlohmann::json json = nlohmann::json::parse(ReportJson(report));
  EXPECT_FALSE(json["passed"].get<bool>());
  EXPECT_EQ(json["failed_checks"], 1);
  EXPECT_EQ(json["checks"][1]["name"], "broken");
  EXPECT_FALSE(json["checks"][1]["passed"].get<bool>());
  EXPECT_NE(ReportTable(report).find("FAIL"), std::string::npos);
}

TEST(ArgMaxTest, LowestIndexWinsTies) { EXPECT_EQ(ArgMax({1.0f, 3.0f, 3.0f}), 1); }

}  // namespace
}  // namespace baton
