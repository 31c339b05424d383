#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <limits>

#include "common/sampling/sampler.h"

namespace baton {
namespace {

constexpr int64_t kVocabSize = 100;
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Case {
  const char* name;
  std::function<void(SamplingParams&)> change;
  // Empty: valid.
  const char* field;
};

class CheckSamplingParamsTest : public ::testing::TestWithParam<Case> {};

TEST_P(CheckSamplingParamsTest, NamesTheField) {
  SamplingParams params;
  GetParam().change(params);
  const std::vector<ParamViolation> violations = CheckSamplingParams(params, kVocabSize);
  if (*GetParam().field == '\0') {
    EXPECT_TRUE(violations.empty()) << violations[0].field << " " << violations[0].description;
    return;
  }
  ASSERT_EQ(violations.size(), 1u);
  EXPECT_EQ(violations[0].field, GetParam().field);
  EXPECT_FALSE(violations[0].description.empty());
}

INSTANTIATE_TEST_SUITE_P(
    Fields, CheckSamplingParamsTest,
    ::testing::Values(
        Case{"Defaults", [](auto& p) {}, ""}, Case{"GreedyTemperature", [](auto& p) { p.temperature = 0; }, ""},
        Case{"HotTemperature", [](auto& p) { p.temperature = 100; }, ""},
        Case{"NegativeTemperature", [](auto& p) { p.temperature = -0.1f; }, "sampling.temperature"},
        Case{"NanTemperature", [](auto& p) { p.temperature = kNan; }, "sampling.temperature"},
        Case{"InfiniteTemperature", [](auto& p) { p.temperature = kInfinity; }, "sampling.temperature"},
        Case{"TopKOff", [](auto& p) { p.top_k = -1; }, ""},
        Case{"TopKBeyondVocabulary", [](auto& p) { p.top_k = 1000000; }, ""},
        Case{"TopKNegative", [](auto& p) { p.top_k = -2; }, "sampling.top_k"},
        Case{"TopPZero", [](auto& p) { p.top_p = 0; }, "sampling.top_p"},
        Case{"TopPAboveOne", [](auto& p) { p.top_p = 1.001f; }, "sampling.top_p"},
        Case{"TopPNan", [](auto& p) { p.top_p = kNan; }, "sampling.top_p"},
        Case{"MinPOne", [](auto& p) { p.min_p = 1; }, ""},
        Case{"MinPNegative", [](auto& p) { p.min_p = -0.1f; }, "sampling.min_p"},
        Case{"MinPNan", [](auto& p) { p.min_p = kNan; }, "sampling.min_p"},
        Case{"TypicalPZero", [](auto& p) { p.typical_p = 0; }, "sampling.typical_p"},
        Case{"TypicalPNan", [](auto& p) { p.typical_p = kNan; }, "sampling.typical_p"},
        Case{"RepetitionTwo", [](auto& p) { p.repetition_penalty = 2; }, ""},
        Case{"RepetitionZero", [](auto& p) { p.repetition_penalty = 0; }, "sampling.repetition_penalty"},
        Case{"RepetitionAboveTwo", [](auto& p) { p.repetition_penalty = 2.1f; }, "sampling.repetition_penalty"},
        Case{"PresenceLow", [](auto& p) { p.presence_penalty = -2; }, ""},
        Case{"PresenceTooLow", [](auto& p) { p.presence_penalty = -2.1f; }, "sampling.presence_penalty"},
        Case{"FrequencyTooHigh", [](auto& p) { p.frequency_penalty = 2.1f; }, "sampling.frequency_penalty"},
        Case{"FrequencyInfinite", [](auto& p) { p.frequency_penalty = kInfinity; }, "sampling.frequency_penalty"},
        Case{"BiasEnds",
             [](auto& p) {
               p.logit_bias = {{0, -100}, {99, 100}};
             },
             ""},
        Case{"BiasTooLarge",
             [](auto& p) {
               p.logit_bias = {{5, 100.5f}};
             },
             "sampling.logit_bias[5]"},
        Case{"BiasNan",
             [](auto& p) {
               p.logit_bias = {{5, kNan}};
             },
             "sampling.logit_bias[5]"},
        Case{"BiasIdNegative",
             [](auto& p) {
               p.logit_bias = {{-1, 1}};
             },
             "sampling.logit_bias[-1]"},
        Case{"BiasIdTooLarge", [](auto& p) { p.logit_bias = {{100, 1}}; }, "sampling.logit_bias[100]"},
        Case{"BiasTwice", [](auto& p) { p.logit_bias = {{7, 1}, {7, 2}}; }, "sampling.logit_bias[7]"},
        Case{"BiasTooMany", [](auto& p) { p.logit_bias.assign(1025, {1, 1.0f}); }, "sampling.logit_bias"},
        Case{"AllowedEnds", [](auto& p) { p.allowed_token_ids = {0, 99}; }, ""},
        Case{"AllowedTooLarge", [](auto& p) { p.allowed_token_ids = {3, 100, 101}; }, "sampling.allowed_token_ids[1]"},
        Case{"AllowedNegative", [](auto& p) { p.allowed_token_ids = {-1}; }, "sampling.allowed_token_ids[0]"}),
    [](const auto& info) { return info.param.name; });

TEST(CheckSamplingParams, ReportsAllProblems) {
  SamplingParams params;
  params.temperature = -1;
  params.top_p = 2;
  params.logit_bias = {{200, 500}};
  std::vector<std::string> fields;
  for (const ParamViolation& violation : CheckSamplingParams(params, kVocabSize)) fields.push_back(violation.field);
  EXPECT_THAT(fields, ::testing::ElementsAre("sampling.temperature", "sampling.top_p", "sampling.logit_bias[200]",
                                             "sampling.logit_bias[200]"));
}

}  // namespace
}  // namespace baton
