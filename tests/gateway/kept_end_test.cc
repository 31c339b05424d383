// Turns that are kept and end with a stop string or at the time limit: the decode worker has the last word on where
// they end, the client has exactly the tokens that are kept, and where that cannot be, an answer without a session.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "common/text/tokenizer.h"
#include "gateway/session_handle.h"
#include "tests/gateway/gateway_fixture.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::ElementsAreArray;
using ::testing::HasSubstr;

class KeptEndTest : public PairTest {
 protected:
  static v1::GenerateRequest KeptRequest(const std::string& stop = "", int max_new_tokens = 100) {
    v1::GenerateRequest request = SimpleRequest(max_new_tokens);
    request.set_keep_state(true);
    if (!stop.empty()) request.mutable_stopping()->add_stop(stop);
    return request;
  }

  static worker::v1::DecodeEvent Kept(worker::v1::DoneReason reason) {
    worker::v1::DecodeEvent event = DecodeDone(reason);
    event.mutable_progress()->mutable_done(0)->set_kept_until_ms(absl::ToUnixMillis(absl::Now() + absl::Hours(1)));
    return event;
  }

  // Pushes these from position `from` on, each by itself.
  static void PushTokens(Running& running, const std::vector<int32_t>& ids, size_t from) {
    for (size_t i = from; i < ids.size(); ++i) {
      running.decode->Push(Tokens(kPromptTokens + static_cast<int64_t>(i), {ids[i]}));
    }
  }

  void ExpectSession(const Running& running, int32_t output_tokens) {
    ASSERT_TRUE(running.client->finished->has_session());
    EXPECT_EQ(running.client->finished->session().handle(),
              MakeSessionHandle(decode_.info().boot_id(), running.decode->request.keep().id()));
    EXPECT_EQ(running.client->finished->session().output_tokens(), output_tokens);
  }

  std::string Say(int32_t id) const { return tokenizer_->TokenBytes(id); }

  const std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::FromModel(TestTokenizerBytes()).value();
  // Says something that no other id used here does.
  static constexpr int32_t kWord = 301;
};

TEST_F(KeptEndTest, TheWorkerEndsTheTurnAtTheStopString) {
  v1::GenerateRequest request = KeptRequest("at on");
  request.mutable_stopping()->set_include_stop_in_output(true);
  Running running = Begin(request);
  EXPECT_THAT(running.decode->request.stop_strings(), ElementsAre("at on"));
  EXPECT_TRUE(running.decode->request.include_stop_tokens());
  // Up to the token that completes it.
  const std::vector<int32_t> ids = *tokenizer_->Encode("The cat sat on the mat");
  std::vector<int32_t> until;
  while (tokenizer_->Decode(until).find("at on") == std::string::npos) until.push_back(ids[until.size()]);
  running.prefill->Push(First(until[0]));
  running.prefill->Push(PrefillDone());
  running.prefill->Finish();
  PushTokens(running, until, 1);
  running.decode->Push(Kept(worker::v1::STOP_STRING));
  running.decode->Finish();
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_EQ(running.client->text, "The cat sat on");
  EXPECT_THAT(running.client->ids, ElementsAreArray(until));
  EXPECT_EQ(running.client->finished->reason(), v1::FINISH_REASON_STOP);
  EXPECT_EQ(running.client->finished->match().stop_string(), "at on");
  EXPECT_EQ(running.client->finished->usage().completion_tokens(), static_cast<int>(until.size()));
  ExpectSession(running, static_cast<int32_t>(until.size()));
  EXPECT_TRUE(decode_.ends().empty()) << "the worker knew";
}

TEST_F(KeptEndTest, AFirstTokenMayCompleteIt) {
  Running running = Begin(KeptRequest(Say(kWord)));
  running.prefill->Push(First(kWord));
  running.prefill->Push(PrefillDone());
  running.prefill->Finish();
  running.decode->Push(Kept(worker::v1::STOP_STRING));
  running.decode->Finish();
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_EQ(running.client->text, "");
  EXPECT_EQ(running.client->finished->match().stop_string(), Say(kWord));
  ExpectSession(running, 1);
}

TEST_F(KeptEndTest, AStopTokenIsNotPartOfWhatIsKept) {
  Running running = BeginDecoding(KeptRequest("never said"));
  running.decode->Push(Tokens(kPromptTokens + 1, {1}));
  running.decode->Push(Kept(worker::v1::STOP_TOKEN));
  running.decode->Finish();
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_EQ(running.client->finished->usage().completion_tokens(), 2);
  ExpectSession(running, 1);
}

TEST_F(KeptEndTest, WithoutKeepStateOnlyTheGatewayLooks) {
  v1::GenerateRequest request = KeptRequest(Say(kWord));
  request.clear_keep_state();
  Running running = Begin(request);
  EXPECT_TRUE(running.decode->request.stop_strings().empty());
  running.prefill->Push(First(kWord));
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_TRUE(running.decode->WaitUntilOver());
}

// One without a tokenizer. The state it would keep is not that of the answer.
TEST_F(KeptEndTest, AWorkerThatGoesOnKeepsNothingOfUse) {
  for (const bool in_one_event : {true, false}) {
    Running running = Begin(KeptRequest(Say(kWord)));
    running.prefill->Push(First(200));
    running.prefill->Push(PrefillDone());
    running.prefill->Finish();
    if (in_one_event) {
      worker::v1::DecodeEvent event = Tokens(kPromptTokens + 1, {kWord, 200});
      event.mutable_progress()->MergeFrom(Kept(worker::v1::LENGTH).progress());
      running.decode->Push(event);
      running.decode->Finish();
    } else {
      running.decode->Push(Tokens(kPromptTokens + 1, {kWord}));
      running.decode->Push(Tokens(kPromptTokens + 2, {200}));
    }
    ASSERT_TRUE(running.client->Finish().ok());
    EXPECT_THAT(running.client->ids, ElementsAre(200, kWord));
    EXPECT_EQ(running.client->finished->match().stop_string(), Say(kWord));
    EXPECT_FALSE(running.client->finished->has_session());
    EXPECT_TRUE(running.decode->WaitUntilOver());
  }
}

TEST_F(KeptEndTest, AWorkerThatDiesBeforeItHasKeptLeavesTheAnswer) {
  Running running = BeginDecoding(KeptRequest(Say(kWord)));
  running.decode->Push(Tokens(kPromptTokens + 1, {kWord}));
  running.decode->Finish(Unavailable());
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_EQ(running.client->finished->match().stop_string(), Say(kWord));
  EXPECT_FALSE(running.client->finished->has_session());
}

TEST_F(KeptEndTest, OnOtherWorkersItGoesOnLookingInTheTextSoFar) {
  const std::string stop = Say(400) + Say(kWord);
  Running running = BeginDecoding(KeptRequest(stop));
  running.decode->Push(Tokens(kPromptTokens + 1, {400}));
  ASSERT_TRUE(running.client->Next().has_value());
  running.decode->Finish(Unavailable());
  running.decode = decode_.Take();
  ASSERT_NE(running.decode, nullptr);
  EXPECT_THAT(running.decode->request.stop_strings(), ElementsAre(stop));
  EXPECT_EQ(running.decode->request.generated_tokens(), 2);
  running.decode->Push(Reserve(decode_, 2));
  running.prefill = prefill_.Take();
  ASSERT_NE(running.prefill, nullptr);
  running.prefill->Push(First(kWord));
  running.decode->Push(Kept(worker::v1::STOP_STRING));
  running.decode->Finish();
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_EQ(running.client->finished->match().stop_string(), stop);
  ExpectSession(running, 3);
}

TEST_F(KeptEndTest, EndsThatNobodyAskedForBreakTheContract) {
  for (const worker::v1::DoneReason reason : {worker::v1::STOP_STRING, worker::v1::CUT_OFF}) {
    Running running = BeginDecoding(KeptRequest("never said"));
    running.decode->Push(Kept(reason));
    const absl::Status status = running.client->Finish();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
    EXPECT_THAT(std::string(status.message()), HasSubstr("broke the protocol"));
  }
}

class TimeLimitTest : public KeptEndTest {
 protected:
  // A request whose time is up once it decodes, and whose worker has been asked to end it.
  Running BeginAndWait(size_t asked_before = 0) {
    v1::GenerateRequest request = KeptRequest("the moon");
    request.mutable_stopping()->set_time_limit_seconds(2);
    Running running = BeginDecoding(request);
    EXPECT_TRUE(Eventually([&] { return decode_.ends().size() > asked_before; }));
    const worker::v1::EndSamplesRequest end = decode_.ends().back();
    EXPECT_THAT(end.samples(), ElementsAre(0));
    EXPECT_TRUE(end.as_complete());
    EXPECT_EQ(end.reservation_id(), 1u);
    return running;
  }
};

TEST_F(TimeLimitTest, AllTokensUpToTheCutAreShownAndKept) {
  Running running = BeginAndWait();
  const std::vector<int32_t> more = *tokenizer_->Encode("over the");
  for (size_t i = 0; i < more.size(); ++i) {
    running.decode->Push(Tokens(kPromptTokens + 1 + static_cast<int64_t>(i), {more[i]}));
  }
  running.decode->Push(Kept(worker::v1::CUT_OFF));
  running.decode->Finish();
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_THAT(running.client->text, ::testing::EndsWith("over the")) << "what was held back comes too";
  EXPECT_THAT(running.client->ids, ElementsAreArray(more));
  EXPECT_EQ(running.client->finished->reason(), v1::FINISH_REASON_TIME_LIMIT);
  EXPECT_EQ(running.client->finished->usage().completion_tokens(), 1 + static_cast<int>(more.size()));
  ExpectSession(running, 1 + static_cast<int32_t>(more.size()));
}

TEST_F(TimeLimitTest, AnEndThatComesFirstIsTheEnd) {
  Running running = BeginAndWait();
  running.decode->Push(Tokens(kPromptTokens + 1, {1}));
  running.decode->Push(Kept(worker::v1::STOP_TOKEN));
  running.decode->Finish();
  ASSERT_TRUE(running.client->Finish().ok());
  EXPECT_EQ(running.client->finished->match().eos_token_id(), 1);
  ExpectSession(running, 1);
}

TEST_F(TimeLimitTest, AWorkerThatSaysNothingOrDiesCostsTheSessionOnly) {
  size_t asked = 0;
  for (const bool dies : {true, false}) {
    Running running = BeginAndWait(asked++);
    if (dies) running.decode->Finish(Unavailable());
    ASSERT_TRUE(running.client->Finish().ok());
    EXPECT_EQ(running.client->finished->reason(), v1::FINISH_REASON_TIME_LIMIT);
    EXPECT_EQ(running.client->finished->usage().completion_tokens(), 1);
    EXPECT_FALSE(running.client->finished->has_session());
    EXPECT_TRUE(running.decode->WaitUntilOver());
  }
  EXPECT_EQ(decode_.untaken(), 0u) << "nobody goes on with it";
}

TEST_F(TimeLimitTest, WithoutATokenThereIsNothingToKeep) {
  v1::GenerateRequest request = KeptRequest();
  request.mutable_stopping()->set_time_limit_seconds(0.1f);
  auto client = Stream(request);
  ASSERT_TRUE(client->Finish().ok());
  EXPECT_EQ(client->finished->reason(), v1::FINISH_REASON_TIME_LIMIT);
  EXPECT_FALSE(client->finished->has_session());
  EXPECT_TRUE(decode_.ends().empty());
}

}  // namespace
}  // namespace baton
