// Generation over the wire: what the workers are asked, what the client gets, whatever order events come in.
#include "gateway/generation_session.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/gateway/gateway_fixture.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

class GenerationTest : public PairTest {
 protected:
  std::vector<int32_t> Encode(const std::string& text) const { return *tokenizer_->Encode(text); }

  // Plays `ids` as a whole sequence, one token a chunk, and ends it for `reason`.
  void Play(Running& running, const std::vector<int32_t>& ids, worker::v1::DoneReason reason = worker::v1::LENGTH) {
    running.prefill->Push(First(ids[0]));
    running.prefill->Push(PrefillDone());
    running.prefill->Finish();
    for (size_t i = 1; i < ids.size(); ++i) {
      running.decode->Push(Tokens(kPromptTokens + static_cast<int64_t>(i), {ids[i]}));
    }
    running.decode->Push(DecodeDone(reason));
    running.decode->Finish();
  }

  std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::FromModel(TestTokenizerBytes()).value();
};

TEST_F(GenerationTest, StreamsOneSequence) {
  v1::GenerateRequest request = SimpleRequest(3);
  request.set_request_id("mine");
  request.set_model("tiny");
  auto client = Stream(request);
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  decode->Push(Reserve(decode_, 7));
  auto prefill = prefill_.Take();
  ASSERT_NE(prefill, nullptr);

  EXPECT_THAT(decode->request.tokens(), ElementsAre(2, 100, 101, 102));
  EXPECT_EQ(decode->request.fingerprint(), std::string(32, 'f'));
  EXPECT_EQ(decode->request.request_id(), "mine");
  EXPECT_EQ(decode->request.stopping().max_new_tokens(), 3);
  EXPECT_THAT(decode->request.stopping().stop_token_ids(), ElementsAre(1, 5));
  EXPECT_EQ(decode->request.sampling().temperature(), 0);
  EXPECT_EQ(decode->request.sampling().top_p(), 1);
  EXPECT_EQ(decode->request.sampling().repetition_penalty(), 1);
  EXPECT_EQ(prefill->request.handoff().endpoint(), decode_.address());
  EXPECT_EQ(prefill->request.handoff().boot_id(), decode_.info().boot_id());
  EXPECT_EQ(prefill->request.handoff().reservation_id(), 7);
  EXPECT_EQ(prefill->request.handoff().generation(), 107);
  EXPECT_EQ(prefill->request.sampling().seed(), decode->request.sampling().seed());
  EXPECT_FALSE(prefill->request.has_score_from());
  EXPECT_FALSE(prefill->request.score_only());

  const auto started = client->Next();
  ASSERT_TRUE(started.has_value() && started->has_started());
  EXPECT_EQ(started->started().request_id(), "mine");
  EXPECT_EQ(started->started().model(), "tiny");
  EXPECT_EQ(started->started().prompt_tokens(), 4);
  EXPECT_EQ(started->started().seed(), decode->request.sampling().seed());

  // The first token is the client's before the decode worker has done anything.
  prefill->Push(First(200));
  const auto first = client->Next();
  ASSERT_TRUE(first.has_value() && first->has_delta());
  EXPECT_THAT(first->delta().token_ids(), ElementsAre(200));
  prefill->Push(PrefillDone());
  prefill->Finish();
  decode->Push(Tokens(5, {201, 202}));
  decode->Push(DecodeDone(worker::v1::LENGTH));
  decode->Finish();
  ASSERT_TRUE(client->Finish().ok());
  EXPECT_THAT(client->ids, ElementsAre(201, 202));
  ASSERT_TRUE(client->finished.has_value());
  EXPECT_TRUE(client->last.has_finished());
  EXPECT_EQ(client->finished->reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(client->finished->match().kind_case(), v1::StopMatch::KIND_NOT_SET);
  EXPECT_EQ(client->finished->usage().prompt_tokens(), 4);
  EXPECT_EQ(client->finished->usage().completion_tokens(), 3);
  EXPECT_EQ(client->finished->usage().total_tokens(), 7);
  EXPECT_GT(client->finished->timing().total_seconds(), 0);
  EXPECT_GE(client->finished->timing().total_seconds(), client->finished->timing().time_to_first_token_seconds());
  EXPECT_EQ(client->context.GetServerInitialMetadata().find("x-request-id")->second, "mine");
}

TEST_F(GenerationTest, OneTokenNeedsNoDecodeWorker) {
  auto client = Stream(SimpleRequest(1));
  auto prefill = prefill_.Take();
  ASSERT_NE(prefill, nullptr);
  EXPECT_FALSE(prefill->request.has_handoff());
  prefill->Push(FirstAndLast(200, worker::v1::LENGTH));
  prefill->Push(PrefillDone());
  prefill->Finish();
  ASSERT_TRUE(client->Finish().ok());
  EXPECT_THAT(client->ids, ElementsAre(200));
  EXPECT_EQ(client->finished->reason(), v1::FINISH_REASON_LENGTH);
  EXPECT_EQ(decode_.untaken(), 0u);
}

TEST_F(GenerationTest, FirstTokenThatStopsReleasesTheReservation) {
  Running running = Begin(SimpleRequest());
  running.prefill->Push(FirstAndLast(5, worker::v1::STOP_TOKEN));
  running.prefill->Push(PrefillDone());
  running.prefill->Finish();
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_TRUE(running.client->ids.empty());
  EXPECT_EQ(running.client->finished->reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(running.client->finished->match().eos_token_id(), 5);
  EXPECT_EQ(running.client->finished->usage().completion_tokens(), 1);
  EXPECT_TRUE(running.decode->WaitUntilOver());
}

TEST_F(GenerationTest, TokensMayOvertakeTheFirstOne) {
  Running running = Begin(SimpleRequest(4));
  running.decode->Push(Tokens(5, {201}));
  running.decode->Push(Tokens(6, {202, 203}));
  running.decode->Push(DecodeDone(worker::v1::LENGTH));
  running.decode->Finish();
  EXPECT_TRUE(running.decode->WaitUntilOver());
  running.prefill->Push(First(200));
  running.prefill->Push(PrefillDone());
  running.prefill->Finish();
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_THAT(running.client->ids, ElementsAre(200, 201, 202, 203));
}

TEST_F(GenerationTest, CollectsAnUnaryResponse) {
  grpc::ClientContext context;
  v1::GenerateResponse response;
  v1::GenerateRequest request = SimpleRequest(3);
  request.mutable_sampling()->set_seed(77);
  grpc::Status status;
  std::thread caller([&] { status = stub_->Generate(&context, request, &response); });
  auto decode = decode_.Take();
  ASSERT_NE(decode, nullptr);
  decode->Push(Reserve(decode_, 1));
  auto prefill = prefill_.Take();
  ASSERT_NE(prefill, nullptr);
  EXPECT_EQ(prefill->request.sampling().seed(), 77u);
  const std::vector<int32_t> ids = Encode("Hello there you");
  ASSERT_GE(ids.size(), 3u);
  prefill->Push(First(ids[0]));
  prefill->Push(PrefillDone());
  prefill->Finish();
  decode->Push(Tokens(5, {ids[1], ids[2]}));
  decode->Push(DecodeDone(worker::v1::LENGTH));
  decode->Finish();
  caller.join();
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.text(), tokenizer_->Decode({ids[0], ids[1], ids[2]}));
  EXPECT_THAT(response.token_ids(), ElementsAre(ids[0], ids[1], ids[2]));
  EXPECT_EQ(response.seed(), 77u);
  EXPECT_EQ(response.model(), "tiny");
  EXPECT_EQ(response.finished().reason(), v1::FINISH_REASON_LENGTH);
}

TEST_F(GenerationTest, StopTokenIsLeftOutUnlessAskedFor) {
  for (bool include : {false, true}) {
    v1::GenerateRequest request = SimpleRequest();
    request.mutable_stopping()->add_stop_token_ids(300);
    request.mutable_stopping()->set_include_stop_in_output(include);
    Running running = Begin(request);
    EXPECT_THAT(running.prefill->request.stopping().stop_token_ids(), ElementsAre(1, 5, 300));
    Play(running, {200, 201, 300}, worker::v1::STOP_TOKEN);
    ASSERT_TRUE(running.client->Finish().ok());
    EXPECT_EQ(running.client->ids.size(), include ? 3u : 2u);
    EXPECT_EQ(running.client->finished->reason(), v1::FINISH_REASON_STOP);
    EXPECT_EQ(running.client->finished->match().stop_token_id(), 300);
    EXPECT_EQ(running.client->finished->usage().completion_tokens(), 3);
  }
}

TEST_F(GenerationTest, StopStringEndsEverythingAtOnce) {
  // "stop" comes in pieces; nothing of it may be seen, and nobody tells the workers but the gateway.
  v1::GenerateRequest request = SimpleRequest(100);
  request.mutable_stopping()->add_stop("lazy dog");
  const std::vector<int32_t> ids = Encode("The quick fox jumps over the lazy dog and more");
  Running running = Begin(request);
  running.prefill->Push(First(ids[0]));
  for (size_t i = 1; i < ids.size(); ++i) {
    if (!running.decode->Push(Tokens(kPromptTokens + static_cast<int64_t>(i), {ids[i]}))) break;
  }
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_EQ(running.client->text, "The quick fox jumps over the ");
  EXPECT_EQ(running.client->finished->reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(running.client->finished->match().stop_string(), "lazy dog");
  EXPECT_TRUE(running.decode->WaitUntilOver());
  EXPECT_TRUE(running.prefill->WaitUntilOver());
  EXPECT_TRUE(running.decode->cancelled());
  EXPECT_TRUE(running.prefill->cancelled());
}

TEST_F(GenerationTest, StopStringCanBeKept) {
  v1::GenerateRequest request = SimpleRequest(100);
  request.mutable_stopping()->add_stop("fox");
  request.mutable_stopping()->set_include_stop_in_output(true);
  Running running = Begin(request);
  const std::vector<int32_t> ids = Encode("The quick fox jumps");
  running.prefill->Push(First(ids[0]));
  for (size_t i = 1; i < ids.size(); ++i) {
    if (!running.decode->Push(Tokens(kPromptTokens + static_cast<int64_t>(i), {ids[i]}))) break;
  }
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_EQ(running.client->text, "The quick fox");
}

TEST_F(GenerationTest, APrefixOfAStopStringThatDoesNotMatchIsReleased) {
  v1::GenerateRequest request = SimpleRequest(100);
  request.mutable_stopping()->add_stop("fox trot");
  Running running = Begin(request);
  const std::vector<int32_t> ids = Encode("The fox");
  Play(running, ids);
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_EQ(running.client->text, "The fox");
}

TEST_F(GenerationTest, CharactersAreNeverSplit) {
  // No piece covers this character, so it comes as four byte tokens.
  const std::string rare = "\xF0\x9D\x84\x9E";
  const std::vector<int32_t> ids = Encode("a" + rare + "b");
  ASSERT_GE(ids.size(), 6u);
  Running running = Begin(SimpleRequest(static_cast<int>(ids.size())));
  running.prefill->Push(First(ids[0]));
  ASSERT_EQ(running.client->NextText(), "a");
  std::string text = "a";
  for (size_t i = 1; i < ids.size(); ++i) {
    running.decode->Push(Tokens(kPromptTokens + static_cast<int64_t>(i), {ids[i]}));
    const std::string delta = running.client->NextText();
    EXPECT_TRUE(delta.empty() || delta == rare || delta == "b") << "part of a character: " << delta;
    text += delta;
  }
  EXPECT_EQ(text, "a" + rare + "b");
  running.decode->Push(DecodeDone(worker::v1::LENGTH));
  EXPECT_TRUE(running.client->Finish().ok());
}

TEST_F(GenerationTest, AnUnfinishedCharacterEndsAsAReplacementCharacter) {
  const std::vector<int32_t> ids = Encode("a\xF0\x9D\x84\x9E");
  Running running = Begin(SimpleRequest(3));
  Play(running, {ids[0], ids[1], ids[2]});
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_THAT(running.client->text, HasSubstr("a\xEF\xBF\xBD"));
}

TEST_F(GenerationTest, TokenIdsCanBeLeftOut) {
  v1::GenerateRequest request = SimpleRequest(2);
  request.mutable_output()->set_token_ids(false);
  Running running = Begin(request);
  Play(running, {200, 201});
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_TRUE(running.client->ids.empty());
  EXPECT_FALSE(running.client->text.empty());
}

TEST_F(GenerationTest, LogprobsCarryPieces) {
  v1::GenerateRequest request = SimpleRequest(2);
  request.mutable_output()->set_top_logprobs(2);
  Running running = Begin(request);
  EXPECT_TRUE(running.prefill->request.logprobs());
  EXPECT_EQ(running.decode->request.top_logprobs(), 2);
  worker::v1::PrefillEvent first = First(200);
  first.mutable_first_token()->mutable_logprobs()->set_logprob(-0.25f);
  first.mutable_first_token()->mutable_logprobs()->add_top_ids(200);
  first.mutable_first_token()->mutable_logprobs()->add_top_logprobs(-0.25f);
  first.mutable_first_token()->mutable_logprobs()->add_top_ids(201);
  first.mutable_first_token()->mutable_logprobs()->add_top_logprobs(-2.5f);
  running.prefill->Push(first);
  worker::v1::DecodeEvent second = Tokens(5, {201});
  second.mutable_progress()->mutable_tokens(0)->add_logprobs()->set_logprob(-1.0f);
  running.decode->Push(second);
  running.decode->Push(DecodeDone(worker::v1::LENGTH));
  ASSERT_TRUE(running.client->Finish().ok());
  ASSERT_EQ(running.client->logprobs.size(), 2u);
  EXPECT_EQ(running.client->logprobs[0].piece(), tokenizer_->TokenBytes(200));
  EXPECT_FLOAT_EQ(running.client->logprobs[0].logprob(), -0.25f);
  ASSERT_EQ(running.client->logprobs[0].top_size(), 2);
  EXPECT_EQ(running.client->logprobs[0].top(1).id(), 201);
  EXPECT_EQ(running.client->logprobs[0].top(1).piece(), tokenizer_->TokenBytes(201));
  EXPECT_FLOAT_EQ(running.client->logprobs[1].logprob(), -1.0f);
}

TEST_F(GenerationTest, PromptLogprobsComeOnceThoughAnAttemptFails) {
  v1::GenerateRequest request = SimpleRequest(2);
  request.mutable_output()->set_prompt_logprobs(true);
  Running running = Begin(request);
  EXPECT_EQ(running.prefill->request.score_from(), 1);
  running.prefill->Push(Scores(1, {100, 101}, -1.0f));
  const auto scores = running.client->Next();
  ASSERT_TRUE(scores.has_value() && scores->has_prompt_logprobs());
  EXPECT_EQ(scores->prompt_logprobs().tokens_size(), 2);
  running.prefill->Finish(Unavailable());

  // The second attempt sends all of them again.
  running.decode = decode_.Take();
  ASSERT_NE(running.decode, nullptr);
  running.decode->Push(Reserve(decode_, 2));
  running.prefill = prefill_.Take();
  ASSERT_NE(running.prefill, nullptr);
  running.prefill->Push(Scores(1, {100, 101, 102}, -1.0f));
  Play(running, {200, 201});
  ASSERT_TRUE(running.client->Finish().ok());
  ASSERT_EQ(running.client->prompt_logprobs.size(), 1u);
  EXPECT_EQ(running.client->prompt_logprobs[0].id(), 102);
}

TEST_F(GenerationTest, TimeLimitEndsWithWhatThereIs) {
  v1::GenerateRequest request = SimpleRequest(100);
  request.mutable_stopping()->set_time_limit_seconds(3.0f);
  request.mutable_stopping()->add_stop("over the moon");
  Running running = Begin(request);
  // Held back as the possible beginning of the stop string, until the limit.
  const std::vector<int32_t> ids = Encode("It flew over the");
  running.prefill->Push(First(ids[0]));
  for (size_t i = 1; i < ids.size(); ++i) {
    running.decode->Push(Tokens(kPromptTokens + static_cast<int64_t>(i), {ids[i]}));
  }
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_EQ(running.client->text, "It flew over the");
  EXPECT_EQ(running.client->finished->reason(), v1::FINISH_REASON_TIME_LIMIT);
  EXPECT_EQ(running.client->finished->usage().completion_tokens(), static_cast<int>(ids.size()));
  EXPECT_TRUE(running.decode->WaitUntilOver());
  EXPECT_TRUE(running.prefill->WaitUntilOver());
}

TEST_F(GenerationTest, TimeLimitHoldsInTheQueueToo) {
  v1::GenerateRequest request = SimpleRequest(8);
  request.mutable_stopping()->set_time_limit_seconds(0.05f);
  decode_.SetScript([](const std::shared_ptr<FakeDecode::Call>& call) {
    call->Finish(
        ToGrpcStatus(WithRetryAfter(absl::ResourceExhaustedError("full"), absl::Seconds(1), "DECODE_MEMORY_FULL")));
  });
  auto client = Stream(request);
  ASSERT_TRUE(client->Finish().ok());
  EXPECT_EQ(client->finished->reason(), v1::FINISH_REASON_TIME_LIMIT);
  EXPECT_EQ(client->finished->usage().completion_tokens(), 0);
}

}  // namespace
}  // namespace baton
