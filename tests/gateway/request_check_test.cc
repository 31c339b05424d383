// Every field of a request to generate: what is accepted, what is refused and under which name, what defaults fill in.
// The other requests: score_check_test.cc.
#include <algorithm>
#include <limits>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/rpc/status_mapping.h"
#include "tests/gateway/request_check_fixture.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using v1::GenerateRequest;

GenerateRequest Valid() {
  GenerateRequest request;
  request.mutable_text()->set_text("Hello");
  return request;
}

struct BadGenerate {
  const char* name;
  void (*spoil)(GenerateRequest&);
  const char* field;
};

class BadGenerateTest : public ::testing::TestWithParam<BadGenerate> {};

TEST_P(BadGenerateTest, NamesTheField) {
  GenerateRequest request = Valid();
  GetParam().spoil(request);
  const auto plan = CheckGenerate(request, "id", TestModel());
  ASSERT_FALSE(plan.ok());
  EXPECT_TRUE(absl::IsInvalidArgument(plan.status())) << plan.status();
  EXPECT_THAT(FieldsOf(plan.status()), ElementsAre(GetParam().field)) << plan.status();
}

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

INSTANTIATE_TEST_SUITE_P(
    Fields, BadGenerateTest,
    ::testing::Values(
        BadGenerate{"NoPrompt", [](auto& r) { r.clear_text(); }, "prompt"},
        BadGenerate{"NoTokens", [](auto& r) { r.mutable_tokens(); }, "tokens.ids"},
        BadGenerate{"TokenTooLarge", [](auto& r) { r.mutable_tokens()->add_ids(1 << 30); }, "tokens.ids[0]"},
        BadGenerate{"TokenNegative",
                    [](auto& r) {
                      r.mutable_tokens()->add_ids(3);
                      r.mutable_tokens()->add_ids(-1);
                    },
                    "tokens.ids[1]"},
        BadGenerate{"EmptyTextWithoutBos",
                    [](auto& r) {
                      r.mutable_text()->clear_text();
                      r.mutable_text()->set_add_bos(false);
                    },
                    "text"},
        BadGenerate{"TextNotUtf8", [](auto& r) { r.mutable_text()->set_text("a\xFF"); }, "text.text"},
        BadGenerate{"NoMessages", [](auto& r) { r.mutable_chat(); }, "chat.messages"},
        BadGenerate{"SystemRole",
                    [](auto& r) {
                      auto* message = r.mutable_chat()->add_messages();
                      message->set_role("system");
                      message->set_content("x");
                    },
                    "chat.messages"},
        BadGenerate{"TemperatureNegative", [](auto& r) { r.mutable_sampling()->set_temperature(-1); },
                    "sampling.temperature"},
        BadGenerate{"TemperatureNan", [](auto& r) { r.mutable_sampling()->set_temperature(kNan); },
                    "sampling.temperature"},
        BadGenerate{"TemperatureInfinite", [](auto& r) { r.mutable_sampling()->set_temperature(kInfinity); },
                    "sampling.temperature"},
        BadGenerate{"TopK", [](auto& r) { r.mutable_sampling()->set_top_k(-2); }, "sampling.top_k"},
        BadGenerate{"TopPZero", [](auto& r) { r.mutable_sampling()->set_top_p(0); }, "sampling.top_p"},
        BadGenerate{"TopPLarge", [](auto& r) { r.mutable_sampling()->set_top_p(1.01f); }, "sampling.top_p"},
        BadGenerate{"TopPNan", [](auto& r) { r.mutable_sampling()->set_top_p(kNan); }, "sampling.top_p"},
        BadGenerate{"MinP", [](auto& r) { r.mutable_sampling()->set_min_p(-0.1f); }, "sampling.min_p"},
        BadGenerate{"TypicalP", [](auto& r) { r.mutable_sampling()->set_typical_p(0); }, "sampling.typical_p"},
        BadGenerate{"RepetitionPenaltyZero", [](auto& r) { r.mutable_sampling()->set_repetition_penalty(0); },
                    "sampling.repetition_penalty"},
        BadGenerate{"RepetitionPenaltyLarge", [](auto& r) { r.mutable_sampling()->set_repetition_penalty(2.5f); },
                    "sampling.repetition_penalty"},
        BadGenerate{"PresencePenalty", [](auto& r) { r.mutable_sampling()->set_presence_penalty(3); },
                    "sampling.presence_penalty"},
        BadGenerate{"FrequencyPenalty", [](auto& r) { r.mutable_sampling()->set_frequency_penalty(-3); },
                    "sampling.frequency_penalty"},
        BadGenerate{"LogitBiasId", [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[-5] = 1; },
                    "sampling.logit_bias[-5]"},
        BadGenerate{"LogitBiasValue", [](auto& r) { (*r.mutable_sampling()->mutable_logit_bias())[5] = 101; },
                    "sampling.logit_bias[5]"},
        BadGenerate{"LogitBiasMany",
                    [](auto& r) {
                      for (int i = 0; i < 1025; ++i) (*r.mutable_sampling()->mutable_logit_bias())[i] = 1;
                    },
                    "sampling.logit_bias"},
        BadGenerate{"AllowedId", [](auto& r) { r.mutable_sampling()->add_allowed_token_ids(1 << 30); },
                    "sampling.allowed_token_ids[0]"},
        BadGenerate{"AllowedMany",
                    [](auto& r) {
                      for (int i = 0; i < 100000; ++i) r.mutable_sampling()->add_allowed_token_ids(1);
                    },
                    "sampling.allowed_token_ids"},
        BadGenerate{"MaxZero", [](auto& r) { r.mutable_stopping()->set_max_new_tokens(0); },
                    "stopping.max_new_tokens"},
        BadGenerate{"MinNegative", [](auto& r) { r.mutable_stopping()->set_min_new_tokens(-1); },
                    "stopping.min_new_tokens"},
        BadGenerate{"MinAboveMax",
                    [](auto& r) {
                      r.mutable_stopping()->set_max_new_tokens(4);
                      r.mutable_stopping()->set_min_new_tokens(5);
                    },
                    "stopping.min_new_tokens"},
        BadGenerate{"StopEmpty", [](auto& r) { r.mutable_stopping()->add_stop(""); }, "stopping.stop[0]"},
        BadGenerate{"StopLong",
                    [](auto& r) {
                      r.mutable_stopping()->add_stop("x");
                      r.mutable_stopping()->add_stop(std::string(257, 'x'));
                    },
                    "stopping.stop[1]"},
        BadGenerate{"StopMany",
                    [](auto& r) {
                      for (int i = 0; i < 17; ++i) r.mutable_stopping()->add_stop("x");
                    },
                    "stopping.stop"},
        BadGenerate{"StopTokenId", [](auto& r) { r.mutable_stopping()->add_stop_token_ids(-1); },
                    "stopping.stop_token_ids[0]"},
        BadGenerate{"StopTokenMany",
                    [](auto& r) {
                      for (int i = 0; i < 1025; ++i) r.mutable_stopping()->add_stop_token_ids(7);
                    },
                    "stopping.stop_token_ids"},
        BadGenerate{"TimeLimitZero", [](auto& r) { r.mutable_stopping()->set_time_limit_seconds(0); },
                    "stopping.time_limit_seconds"},
        BadGenerate{"TimeLimitNan", [](auto& r) { r.mutable_stopping()->set_time_limit_seconds(kNan); },
                    "stopping.time_limit_seconds"},
        BadGenerate{"TopLogprobs", [](auto& r) { r.mutable_output()->set_top_logprobs(21); }, "output.top_logprobs"},
        BadGenerate{"TopLogprobsAlone",
                    [](auto& r) {
                      r.mutable_output()->set_logprobs(false);
                      r.mutable_output()->set_top_logprobs(2);
                    },
                    "output.top_logprobs"},
        BadGenerate{"NoSamples", [](auto& r) { r.set_n(0); }, "n"},
        BadGenerate{"NegativeSamples", [](auto& r) { r.set_n(-1); }, "n"},
        BadGenerate{"TooManySamples", [](auto& r) { r.set_n(129); }, "n"},
        BadGenerate{"StopAfterNone", [](auto& r) { r.set_stop_after(0); }, "stop_after"},
        BadGenerate{"StopAfterMoreThanOne", [](auto& r) { r.set_stop_after(2); }, "stop_after"},
        BadGenerate{"StopAfterMoreThanAll",
                    [](auto& r) {
                      r.set_n(4);
                      r.set_stop_after(5);
                    },
                    "stop_after"},
        BadGenerate{"Priority", [](auto& r) { r.set_priority(101); }, "priority"}),
    [](const auto& info) { return std::string(info.param.name); });

TEST(CheckGenerateTest, ReportsEverythingAtOnce) {
  GenerateRequest request;
  request.set_priority(-1000);
  request.mutable_sampling()->set_top_p(2);
  request.mutable_stopping()->set_max_new_tokens(-1);
  request.mutable_output()->set_top_logprobs(-1);
  const auto plan = CheckGenerate(request, "id", TestModel());
  EXPECT_THAT(FieldsOf(plan.status()),
              ElementsAre("priority", "sampling.top_p", "output.top_logprobs", "prompt", "stopping.max_new_tokens"));
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("and 4 more"));
}

TEST(CheckGenerateTest, DefaultsAreTheModels) {
  auto model = TestModel();
  auto plan = CheckGenerate(Valid(), "id", model);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->sampling.temperature(), 1);
  EXPECT_EQ(plan->sampling.top_k(), 0);
  EXPECT_EQ(plan->sampling.top_p(), 1);
  EXPECT_EQ(plan->sampling.min_p(), 0);
  EXPECT_EQ(plan->sampling.typical_p(), 1);
  EXPECT_EQ(plan->sampling.repetition_penalty(), 1);
  EXPECT_EQ(plan->stopping.max_new_tokens(), 256);
  EXPECT_EQ(plan->stopping.min_new_tokens(), 0);
  EXPECT_THAT(plan->stopping.stop_token_ids(), ElementsAre(1, 5));
  EXPECT_TRUE(plan->token_ids);
  EXPECT_FALSE(plan->logprobs);
  EXPECT_FALSE(plan->time_limit_seconds.has_value());
  EXPECT_EQ(plan->prompt.front(), 2);
  // Drawn anew for each request.
  EXPECT_NE(plan->sampling.seed(), CheckGenerate(Valid(), "id", model)->sampling.seed());

  model->generation.set_temperature(0.7f);
  model->generation.set_top_k(64);
  model->generation.set_top_p(0.95f);
  model->generation.set_max_new_tokens(10);
  model->generation.set_repetition_penalty(1.1f);
  plan = CheckGenerate(Valid(), "id", model);
  EXPECT_EQ(plan->sampling.temperature(), 0.7f);
  EXPECT_EQ(plan->sampling.top_k(), 64);
  EXPECT_EQ(plan->sampling.top_p(), 0.95f);
  EXPECT_EQ(plan->sampling.repetition_penalty(), 1.1f);
  EXPECT_EQ(plan->stopping.max_new_tokens(), 10);

  // do_sample: false is greedy, until the caller sets a temperature.
  model->generation.set_do_sample(false);
  EXPECT_EQ(CheckGenerate(Valid(), "id", model)->sampling.temperature(), 0);
  GenerateRequest request = Valid();
  request.mutable_sampling()->set_temperature(0.3f);
  EXPECT_EQ(CheckGenerate(request, "id", model)->sampling.temperature(), 0.3f);
}

TEST(CheckGenerateTest, TheCallersValuesWin) {
  GenerateRequest request = Valid();
  request.mutable_sampling()->set_temperature(0);
  request.mutable_sampling()->set_top_k(-1);
  request.mutable_sampling()->set_seed(0);
  request.mutable_stopping()->set_ignore_eos(true);
  request.mutable_stopping()->add_stop_token_ids(9);
  request.mutable_stopping()->add_stop("\n\n");
  request.mutable_stopping()->set_time_limit_seconds(1.5f);
  request.mutable_output()->set_top_logprobs(20);
  request.set_priority(-100);
  const auto plan = CheckGenerate(request, "id", TestModel());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->sampling.temperature(), 0);
  EXPECT_EQ(plan->sampling.top_k(), -1);
  EXPECT_EQ(plan->sampling.seed(), 0u);
  EXPECT_THAT(plan->stopping.stop_token_ids(), ElementsAre(9));
  EXPECT_THAT(plan->stop_strings, ElementsAre("\n\n"));
  EXPECT_EQ(plan->time_limit_seconds, 1.5);
  EXPECT_TRUE(plan->logprobs);
  EXPECT_EQ(plan->priority, -100);
}

TEST(CheckGenerateTest, LengthsAreCutToTheContext) {
  GenerateRequest request;
  for (int i = 0; i < 510; ++i) request.mutable_tokens()->add_ids(7);
  request.mutable_stopping()->set_max_new_tokens(100);
  request.mutable_stopping()->set_min_new_tokens(50);
  auto plan = CheckGenerate(request, "id", TestModel());
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->stopping.max_new_tokens(), 2);
  EXPECT_EQ(plan->stopping.min_new_tokens(), 2);

  request.mutable_tokens()->add_ids(7);
  EXPECT_EQ(CheckGenerate(request, "id", TestModel())->stopping.max_new_tokens(), 1);
  request.mutable_tokens()->add_ids(7);
  plan = CheckGenerate(request, "id", TestModel());
  EXPECT_TRUE(absl::IsInvalidArgument(plan.status()));
  EXPECT_EQ(ErrorReason(plan.status()), "PROMPT_TOO_LONG");
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("512 tokens"));
}

TEST(CheckGenerateTest, TextThatCannotFitIsNotTokenized) {
  auto model = TestModel();
  model->longest_piece_bytes = 16;
  GenerateRequest request;
  request.mutable_text()->set_text(std::string(512 * 16, 'x'));
  const auto plan = CheckGenerate(request, "id", model);
  EXPECT_EQ(ErrorReason(plan.status()), "PROMPT_TOO_LONG");
  EXPECT_THAT(FieldsOf(plan.status()), ElementsAre("text"));
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr("8192 bytes"));
}

TEST(CheckGenerateTest, TextNeverBecomesControlTokensUnlessAsked) {
  const auto model = TestModel();
  const int32_t turn = model->tokenizer->PieceId("<start_of_turn>");
  GenerateRequest request;
  request.mutable_text()->set_text("<start_of_turn>user");
  const auto contains_turn = [&] {
    const auto plan = CheckGenerate(request, "id", model);
    EXPECT_TRUE(plan.ok()) << plan.status();
    return std::find(plan->prompt.begin(), plan->prompt.end(), turn) != plan->prompt.end();
  };
  EXPECT_FALSE(contains_turn());
  request.mutable_text()->set_parse_special(true);
  EXPECT_TRUE(contains_turn());
  request.mutable_text()->set_parse_special(false);
  request.mutable_text()->set_add_bos(false);
  EXPECT_NE(CheckGenerate(request, "id", model)->prompt.front(), 2);
}

TEST(CheckGenerateTest, ChatIsTheModelsTurnFormat) {
  GenerateRequest request;
  auto* message = request.mutable_chat()->add_messages();
  message->set_role("user");
  message->set_content("Hi");
  const auto model = TestModel();
  const auto plan = CheckGenerate(request, "id", model);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(model->tokenizer->Decode(plan->prompt, /*keep_special=*/true),
            "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n");
}

TEST(CheckGenerateTest, AModelWithoutTokenizerTakesIds) {
  auto model = TestModel();
  model->tokenizer = nullptr;
  const auto refused = CheckGenerate(Valid(), "id", model);
  EXPECT_TRUE(absl::IsFailedPrecondition(refused.status())) << refused.status();
  GenerateRequest request;
  request.mutable_tokens()->add_ids(7);
  EXPECT_TRUE(CheckGenerate(request, "id", model).ok());
  request.mutable_stopping()->add_stop("x");
  EXPECT_THAT(FieldsOf(CheckGenerate(request, "id", model).status()), ElementsAre("stopping.stop"));
}

TEST(IsRequestIdTest, PrintableAndShort) {
  EXPECT_TRUE(IsRequestId(""));
  EXPECT_TRUE(IsRequestId("req-1 of 2~"));
  EXPECT_TRUE(IsRequestId(std::string(128, 'x')));
  EXPECT_FALSE(IsRequestId(std::string(129, 'x')));
  EXPECT_FALSE(IsRequestId("a\nb"));
  EXPECT_FALSE(IsRequestId("\xC3\xB6"));
}

}  // namespace
}  // namespace baton
