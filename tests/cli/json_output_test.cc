#include "gateway/cli/json_output.h"

#include <cmath>

#include <gtest/gtest.h>

namespace baton::cli {
namespace {

TEST(JsonOutput, FloatsAreAsShortAsTheyCanBe) {
  EXPECT_EQ(JsonLine({{"x", ShortestDouble(-0.1F)}}), "{\"x\":-0.1}\n");
  EXPECT_EQ(static_cast<float>(ShortestDouble(1.17549435e-38F)), 1.17549435e-38F);
  EXPECT_EQ(JsonLine({{"x", ShortestDouble(-INFINITY)}}), "{\"x\":null}\n");
}

TEST(JsonOutput, PiecesThatAreNotUtf8StayReadable) {
  v1::TokenLogprob logprob;
  logprob.set_id(7);
  logprob.set_logprob(-0.5F);
  logprob.set_piece("\xE2\x82");
  EXPECT_EQ(JsonLine(ToJson(logprob)), "{\"id\":7,\"logprob\":-0.5,\"piece\":\"\xEF\xBF\xBD\"}\n");
}

TEST(JsonOutput, SeedsSurviveReadersThatRound) {
  v1::GenerateResponse response;
  response.set_seed(18446744073709551615u);
  EXPECT_EQ(ToJson(response)["seed"], "18446744073709551615");
}

TEST(JsonOutput, SaysWhatEndedTheAnswer) {
  v1::GenerateEvent event;
  event.mutable_finished()->set_reason(v1::FINISH_REASON_STOP);
  event.mutable_finished()->mutable_match()->set_stop_string("\n\n");
  const Json json = ToJson(event);
  EXPECT_EQ(json["event"], "finished");
  EXPECT_EQ(json["finish_reason"], "stop");
  EXPECT_EQ(json["match"]["stop_string"], "\n\n");
  event.mutable_finished()->clear_match();
  event.mutable_finished()->set_reason(v1::FINISH_REASON_TIME_LIMIT);
  EXPECT_EQ(ToJson(event)["finish_reason"], "time_limit");
  EXPECT_FALSE(ToJson(event).contains("match"));
}

TEST(JsonOutput, ChoicesAppearWhenTheRequestHasThem) {
  v1::GenerateEvent event;
  event.mutable_delta()->set_choice(2);
  EXPECT_FALSE(ToJson(event).contains("choice"));
  EXPECT_EQ(ToJson(event, /*with_choices=*/true)["choice"], 2);
  event.mutable_choice_finished()->set_choice(2);
  event.mutable_choice_finished()->set_seed(18446744073709551615u);
  event.mutable_choice_finished()->set_reason(v1::FINISH_REASON_CANCELLED);
  event.mutable_choice_finished()->set_cumulative_logprob(-1.5);
  const Json end = ToJson(event, true);
  EXPECT_EQ(end["event"], "choice_finished");
  EXPECT_EQ(end["choice"], 2);
  EXPECT_EQ(end["seed"], "18446744073709551615");
  EXPECT_EQ(end["finish_reason"], "cancelled");
  EXPECT_EQ(end["cumulative_logprob"], -1.5);

  v1::GenerateResponse response;
  EXPECT_FALSE(ToJson(response).contains("choices"));
  response.add_choices()->set_text("a");
  response.add_choices()->mutable_finished()->set_choice(1);
  EXPECT_EQ(ToJson(response)["choices"][0]["text"], "a");
  EXPECT_EQ(ToJson(response)["choices"][1]["choice"], 1);
}

}  // namespace
}  // namespace baton::cli
