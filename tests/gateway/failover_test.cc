// Requests whose workers are lost on the way: the client's stream goes on elsewhere, without a gap or a repeat, and as
// if nothing had happened. When the gateway gives up: failover_limits_test.cc.
#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/sampling/sample_seed.h"
#include "tests/gateway/failover_fixture.h"

namespace baton {
namespace {

struct Course {
  const char* name;
  std::vector<int> points;
  int decoded_tokens = 2;
};

class EveryStage : public FailoverTest, public ::testing::WithParamInterface<Course> {};

TEST_P(EveryStage, TheStreamIsAsIfNothingHadHappened) {
  v1::GenerateRequest request = SimpleRequest(12);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(5);
  request.mutable_sampling()->set_repetition_penalty(1.5);
  request.mutable_stopping()->set_min_new_tokens(3);
  request.mutable_output()->set_logprobs(true);
  std::vector<Point> points;
  for (const int point : GetParam().points) points.push_back(static_cast<Point>(point));
  FailAt(points, GetParam().decoded_tokens);

  auto client = Stream(request);
  const absl::Status status = Finish(*client);
  ASSERT_TRUE(status.ok()) << status;
  ASSERT_EQ(client->ids.size(), 12u);
  ASSERT_EQ(client->logprobs.size(), 12u);
  for (int64_t i = 0; i < 12; ++i) {
    EXPECT_EQ(client->ids[static_cast<size_t>(i)], TokenAt(kPromptTokens + i, 5)) << i;
    EXPECT_EQ(client->logprobs[static_cast<size_t>(i)].logprob(), LogprobAt(kPromptTokens + i)) << i;
  }
  ASSERT_TRUE(client->finished.has_value());
  EXPECT_EQ(client->finished->reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(client->finished->usage().prompt_tokens(), kPromptTokens);
  EXPECT_EQ(client->finished->usage().completion_tokens(), 12);
  EXPECT_EQ(client->finished->usage().cached_prompt_tokens(), 1);

  // Every attempt is asked for what is left of the same request.
  const auto decode_requests = this->decode_requests();
  ASSERT_EQ(decode_requests.size(), points.size() + 1);
  for (const auto& asked : decode_requests) {
    ASSERT_EQ(asked.tokens_size(), kPromptTokens + asked.generated_tokens());
    for (int i = 0; i < asked.generated_tokens(); ++i) EXPECT_EQ(asked.tokens(kPromptTokens + i), client->ids[i]);
    EXPECT_EQ(asked.sampling().seed(), 5u);
    EXPECT_EQ(asked.sampling().repetition_penalty(), 1.5f);
    EXPECT_EQ(asked.stopping().min_new_tokens(), 3);
    EXPECT_EQ(asked.stopping().max_new_tokens(), 12);
    EXPECT_TRUE(asked.logprobs());
  }
  for (const auto& asked : prefill_requests()) {
    EXPECT_EQ(asked.tokens_size(), kPromptTokens + asked.generated_tokens());
  }
  EXPECT_TRUE(Idle());
}

constexpr int kReserve = 0, kPrefill = 1, kHandoff = 2, kDecode = 3;
INSTANTIATE_TEST_SUITE_P(
    Stages, EveryStage,
    ::testing::Values(Course{"Undisturbed", {}}, Course{"Reserving", {kReserve}}, Course{"Prefilling", {kPrefill}},
                      Course{"HandingOff", {kHandoff}}, Course{"Decoding", {kDecode}},
                      Course{"AfterOneToken", {kDecode}, 1}, Course{"WithOneTokenLeft", {kDecode}, 9},
                      Course{"Twice", {kDecode, kDecode}}, Course{"ThenReserving", {kDecode, kReserve}},
                      Course{"ThenPrefilling", {kDecode, kPrefill}}, Course{"ThenHandingOff", {kDecode, kHandoff}},
                      Course{"AgainAndAgain", {kDecode, kReserve, kDecode, kPrefill, kDecode}}),
    [](const auto& info) { return std::string(info.param.name); });

TEST_F(FailoverTest, TheLastTokenNeedsNoDecodeWorker) {
  FailAt({Point::kDecode}, 2);
  auto client = Stream(SimpleRequest(4));
  ASSERT_TRUE(Finish(*client).ok());
  EXPECT_EQ(client->ids.size(), 4u);
  EXPECT_EQ(decode_requests().size(), 1u);
  ASSERT_EQ(prefill_requests().size(), 2u);
  EXPECT_FALSE(prefill_requests()[1].has_handoff());
  EXPECT_TRUE(Idle());
}

TEST_F(FailoverTest, AStopStringMayStraddleTheFailure) {
  const auto tokenizer = Tokenizer::FromModel(TestTokenizerBytes()).value();
  text_ = *tokenizer->Encode("The quick fox jumps over the lazy dog and more");
  v1::GenerateRequest request = SimpleRequest(64);
  request.mutable_stopping()->add_stop("lazy dog");
  // Wherever it is cut, the client reads the same.
  for (int tokens = 1; tokens < static_cast<int>(text_.size()); ++tokens) {
    const size_t before = decode_requests().size();
    std::vector<Point> points(before, Point::kDecode);
    points.push_back(Point::kDecode);
    FailAt(points, tokens);
    auto client = Stream(request);
    const absl::Status status = Finish(*client);
    ASSERT_TRUE(status.ok()) << status << " after " << tokens;
    EXPECT_EQ(client->text, "The quick fox jumps over the ") << "after " << tokens;
    EXPECT_EQ(client->finished->reason(), v1::FINISH_REASON_STOP);
    EXPECT_EQ(client->finished->match().stop_string(), "lazy dog");
    ASSERT_TRUE(Idle());
  }
}

TEST_F(FailoverTest, EachChoiceGoesOnFromItsOwnTokens) {
  v1::GenerateRequest request = SimpleRequest(9);
  request.set_n(3);
  request.mutable_sampling()->set_seed(42);
  // The first attempt has all choices; of those it is continued in, one fails again.
  FailAt({Point::kDecode, Point::kDecode});
  auto client = Stream(request);
  const absl::Status status = Finish(*client);
  ASSERT_TRUE(status.ok()) << status;
  EXPECT_THAT(ends_, ::testing::UnorderedElementsAre(0, 1, 2));
  const auto& finished = client->finished;
  ASSERT_TRUE(finished.has_value());
  ASSERT_EQ(finished->choices_size(), 3);
  for (int choice = 0; choice < 3; ++choice) {
    const uint64_t seed = choice == 0 ? 42 : SampleSeed(42, choice);
    double logprob = 0;
    std::vector<int32_t> expected;
    for (int64_t i = 0; i < 9; ++i) {
      expected.push_back(TokenAt(kPromptTokens + i, seed));
      logprob += static_cast<double>(LogprobAt(kPromptTokens + i));
    }
    EXPECT_EQ(choice_ids_[choice], expected) << choice;
    EXPECT_EQ(finished->choices(choice).usage().completion_tokens(), 9);
    EXPECT_EQ(finished->choices(choice).cumulative_logprob(), logprob);
  }
  EXPECT_EQ(decode_requests().size(), 1u + 3u + 1u);
  EXPECT_TRUE(Idle());
}

TEST_F(FailoverTest, AFullWorkerIsNoReasonToGiveUp) {
  // Its memory for what is to come has run out in the middle.
  failure_ = ToGrpcStatus(WithReason(absl::ResourceExhaustedError("full"), "DECODE_MEMORY_FULL"));
  FailAt({Point::kDecode});
  ExpectEightTokens();
}

TEST_F(FailoverTest, WhatALeavingWorkerLeftIsFetched) {
  worker::v1::SessionKey key;
  key.set_id(std::string(kSessionIdBytes, 'i'));
  key.set_identity(std::string(kIdentityBytes, 's'));
  last_words_ = [&](FakeDecode::Call& call) {
    worker::v1::DecodeEvent event;
    worker::v1::LeftSample* const left = event.mutable_leaving()->add_samples();
    *left->mutable_key() = key;
    // Nonsense is passed over.
    event.mutable_leaving()->add_samples()->set_sample(-7);
    call.Push(event);
  };
  failure_ = Unavailable("DRAINING");
  FailAt({Point::kDecode});
  ExpectEightTokens();
  const auto asked = prefill_requests();
  ASSERT_EQ(asked.size(), 2u);
  EXPECT_FALSE(asked[0].has_session());
  EXPECT_EQ(asked[1].session().endpoint(), decode_.address());
  EXPECT_EQ(asked[1].session().key().id(), key.id());
  EXPECT_EQ(asked[1].session().key().identity(), key.identity());
}

TEST_F(FailoverTest, CopiesWhereNoneCanBeArePassedOver) {
  last_words_ = [&](FakeDecode::Call& call) {
    for (const int32_t standby : {0, -1, 1 << 30}) {
      worker::v1::DecodeEvent event;
      worker::v1::StateCheckpoint* const copy = event.mutable_progress()->add_checkpoints();
      copy->mutable_key()->set_id(std::string(kSessionIdBytes, 'i'));
      copy->mutable_key()->set_identity(std::string(kIdentityBytes, 's'));
      copy->set_position(5);
      copy->set_standby(standby);
      call.Push(event);
    }
  };
  FailAt({Point::kDecode});
  ExpectEightTokens();
  const auto asked = prefill_requests();
  ASSERT_EQ(asked.size(), 2u);
  EXPECT_FALSE(asked[1].has_session());
}

}  // namespace
}  // namespace baton
