// Prompts that the decode worker computes itself: bit for bit what a prefill worker's state would have given, in steps
// of bounded length, beside others; what is refused, and that nothing is left behind.
#include <string>
#include <thread>
#include <vector>

#include "common/rpc/status_mapping.h"
#include "common/rpc/worker_request.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/decode/decode_worker.h"

namespace baton {
namespace {

using testing::ElementsAreArray;
using worker::v1::DecodeRequest;
using worker::v1::SessionKey;

DecodeRequest Local(DecodeRequest request) {
  request.set_compute_prompt(true);
  return request;
}

SessionKey Key(char mark) {
  SessionKey key;
  key.set_id(std::string(kSessionIdBytes, mark));
  key.set_identity(std::string(kIdentityBytes, 'i'));
  return key;
}

RunStream::Result RunToEnd(DecodeWorker& worker, const DecodeRequest& request) {
  RunStream run(worker.stub(), request);
  EXPECT_TRUE(run.Reserve().has_value()) << "refused";
  return run.End();
}

absl::Status Refusal(DecodeWorker& worker, const DecodeRequest& request) {
  RunStream run(worker.stub(), request);
  EXPECT_FALSE(run.Reserve().has_value());
  return run.End().status;
}

void ExpectSame(const Expectation& expected, const RunStream::Result& got) {
  EXPECT_TRUE(got.status.ok()) << got.status;
  ASSERT_TRUE(got.first.has_value());
  EXPECT_EQ(got.first->id(), expected.first_token);
  EXPECT_EQ(got.first->has_logprobs(), expected.request.logprobs());
  EXPECT_THAT(got.tokens, ElementsAreArray(expected.tokens));
  EXPECT_EQ(got.reason, expected.reason);
  ASSERT_EQ(got.logprobs.size(), expected.logprobs.size());
  for (size_t i = 0; i < got.logprobs.size(); ++i) {
    EXPECT_EQ(got.logprobs[i].SerializeAsString(), expected.logprobs[i].SerializeAsString());
  }
}

class LocalPrefillTest : public testing::TestWithParam<const char*> {
 protected:
  // Prompts within one step and over many, shorter and longer than the windows; sampled ones with penalties, a history
  // and logprobs among them.
  std::vector<Expectation> MakeExpectations() {
    std::vector<Expectation> expectations;
    uint64_t seed = 1;
    for (const int length : {1, 2, 15, 16, 17, 64, 65, 150}) {
      DecodeRequest request = MakeRequest(LoopModel(GetParam()), RandomPrompt(length, seed), 12 + 3 * (length % 5));
      if (seed % 2 == 0) {
        request.mutable_sampling()->set_temperature(1.2f);
        request.mutable_sampling()->set_seed(seed);
        request.mutable_sampling()->set_repetition_penalty(1.3f);
        request.set_logprobs(true);
        request.set_top_logprobs(3);
      }
      if (seed % 3 == 0) request.set_generated_tokens(length / 3);
      expectations.push_back(RunPlainLoop(GetParam(), request));
      ++seed;
    }
    return expectations;
  }
};

TEST_P(LocalPrefillTest, InCompanyEachGivesWhatThePlainLoopGives) {
  const std::vector<Expectation> expectations = MakeExpectations();
  DecodeWorkerOptions options;
  options.model = GetParam();
  options.engine.local_prefill_chunk = 16;
  options.engine.max_batch = 5;
  DecodeWorker worker(options);
  constexpr size_t kRounds = 3;
  std::vector<std::thread> clients;
  for (size_t i = 0; i < expectations.size() * kRounds; ++i) {
    clients.emplace_back([&, i] {
      const Expectation& expected = expectations[i % expectations.size()];
      DecodeRequest request = Local(expected.request);
      request.set_priority(static_cast<int>(i % 3) - 1);
      if (i % 4 == 3) {
        // Some are handed over all the same.
        RunStream run(worker.stub(), expected.request);
        const auto reservation = run.Reserve();
        ASSERT_TRUE(reservation.has_value());
        ASSERT_TRUE(HandOver(worker.stub(), *reservation, expected.messages).ok());
        EXPECT_THAT(run.End().tokens, ElementsAreArray(expected.tokens));
        return;
      }
      ExpectSame(expected, RunToEnd(worker, request));
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(worker.Metric("baton_local_prefills_total"), 18);
  ExpectNothingHeld(worker);
  EXPECT_EQ(worker.load().Snapshot().queued_tokens(), 0);
}

TEST_P(LocalPrefillTest, AStepTakesAChunkAtMost) {
  const Expectation expected =
      RunPlainLoop(GetParam(), MakeRequest(LoopModel(GetParam()), RandomPrompt(30, 5), /*max_new_tokens=*/6));
  DecodeWorkerOptions options;
  options.model = GetParam();
  options.engine.local_prefill_chunk = 8;
  DecodeWorker worker(options);
  ExpectSame(expected, RunToEnd(worker, Local(expected.request)));
  ExpectNothingHeld(worker);
  // 8 + 8 + 8 + 6 tokens of the prompt, then one for each token after the first.
  EXPECT_EQ(worker.Metric("baton_step_seconds"), 4 + 5);
  EXPECT_EQ(worker.Metric("baton_generation_tokens_total"), 6);
  EXPECT_EQ(worker.Metric("baton_prompt_tokens_total", "computed"), 30);
  EXPECT_EQ(worker.Metric("baton_prompt_tokens_total", "transferred"), 0);
}

TEST_P(LocalPrefillTest, SamplesAreWhatTheyAreAlone) {
  DecodeRequest request = MakeRequest(LoopModel(GetParam()), RandomPrompt(70, 11), 20);
  request.mutable_sampling()->set_temperature(2);
  request.mutable_sampling()->set_seed(500);
  constexpr int kSamples = 5;
  std::vector<Expectation> alone;
  for (uint64_t i = 0; i < kSamples; ++i) {
    DecodeRequest one = request;
    one.mutable_sampling()->set_seed(500 + i);
    alone.push_back(RunPlainLoop(GetParam(), one));
    if (i > 0) request.mutable_sampling()->add_further_seeds(500 + i);
  }
  // One of them ends where it begins.
  request.mutable_stopping()->add_stop_token_ids(alone[2].first_token);
  DecodeWorker worker({.model = GetParam()});
  const RunStream::Result got = RunToEnd(worker, Local(request));
  ASSERT_TRUE(got.status.ok()) << got.status;
  ASSERT_TRUE(got.first.has_value());
  ASSERT_EQ(got.first->further_size(), kSamples - 1);
  for (int i = 0; i < kSamples; ++i) {
    const Expectation& expected = alone[static_cast<size_t>(i)];
    const worker::v1::FirstToken& first = i == 0 ? *got.first : got.first->further(i - 1);
    EXPECT_EQ(first.id(), expected.first_token);
    EXPECT_EQ(first.has_done(), first.id() == alone[2].first_token);
    if (first.has_done()) {
      EXPECT_EQ(got.samples.count(i), 0u);
      continue;
    }
    // The others stop where they meet that token.
    const std::vector<int32_t>& tokens = got.samples.at(i).tokens;
    ASSERT_LE(tokens.size(), expected.tokens.size());
    EXPECT_THAT(tokens, ElementsAreArray(expected.tokens.begin(), expected.tokens.begin() + tokens.size()));
    EXPECT_TRUE(tokens.size() == expected.tokens.size() || tokens.back() == alone[2].first_token);
  }
  ExpectNothingHeld(worker);
  EXPECT_EQ(worker.Metric("baton_sequences_finished_total", "done"), kSamples);
}

TEST_P(LocalPrefillTest, AFirstTokenMayBeTheLast) {
  const Expectation expected = RunPlainLoop(GetParam(), MakeRequest(LoopModel(GetParam()), RandomPrompt(9, 3), 1));
  DecodeWorker worker({.model = GetParam()});
  const RunStream::Result got = RunToEnd(worker, Local(expected.request));
  EXPECT_TRUE(got.status.ok()) << got.status;
  ASSERT_TRUE(got.first.has_value());
  EXPECT_EQ(got.first->id(), expected.first_token);
  EXPECT_EQ(got.first->done(), worker::v1::LENGTH);
  EXPECT_TRUE(got.tokens.empty());
  ExpectNothingHeld(worker);
  EXPECT_EQ(worker.Metric("baton_sequences_finished_total", "done"), 1);
}

TEST_P(LocalPrefillTest, TurnsGoOnFromWhatIsKeptHere) {
  DecodeWorkerOptions options;
  options.model = GetParam();
  options.sessions.ttl = absl::Hours(1);
  options.sessions.memory_bytes = int64_t{1} << 28;
  DecodeWorker worker(options);
  std::vector<int32_t> conversation;
  const std::vector<int> new_tokens = {90, 1, 20};
  for (size_t turn = 0; turn < new_tokens.size(); ++turn) {
    const std::vector<int32_t> more = RandomPrompt(new_tokens[turn], 70 + turn);
    conversation.insert(conversation.end(), more.begin(), more.end());
    // The second turn is its first token alone.
    DecodeRequest request = MakeRequest(LoopModel(GetParam()), conversation, turn == 1 ? 1 : 10);
    request.mutable_sampling()->set_temperature(1);
    const Expectation expected = RunPlainLoop(GetParam(), request);
    *request.mutable_keep() = Key(static_cast<char>('a' + turn));
    if (turn > 0) *request.mutable_session() = Key(static_cast<char>('a' + turn - 1));
    const RunStream::Result got = RunToEnd(worker, Local(request));
    ASSERT_TRUE(got.status.ok()) << got.status;
    ASSERT_TRUE(got.first.has_value());
    EXPECT_EQ(got.first->id(), expected.first_token) << "turn " << turn;
    EXPECT_THAT(got.tokens, ElementsAreArray(expected.tokens));
    EXPECT_EQ(got.reason, worker::v1::LENGTH) << "of what is kept, the end is always told";
    // The last token of the turn before has not been consumed.
    const int64_t known = static_cast<int64_t>(conversation.size()) - new_tokens[turn] - 1;
    EXPECT_EQ(got.first->cached_tokens(), turn == 0 ? 0 : known);
    conversation.push_back(expected.first_token);
    conversation.insert(conversation.end(), expected.tokens.begin(), expected.tokens.end());
  }

  DecodeRequest request = Local(MakeRequest(LoopModel(GetParam()), conversation, 10));
  *request.mutable_session() = Key('z');
  EXPECT_EQ(ErrorReason(Refusal(worker, request)), "LOCAL_PREFILL_REFUSED") << "not kept";
  *request.mutable_session() = Key('c');
  request.mutable_session()->set_identity(std::string(kIdentityBytes, 'j'));
  EXPECT_EQ(ErrorReason(Refusal(worker, request)), "LOCAL_PREFILL_REFUSED") << "kept for another";
  *request.mutable_session() = Key('c');
  request.set_tokens(50, request.tokens(50) + 1);
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal(worker, request))) << "another conversation";
  request = MakeRequest(LoopModel(GetParam()), conversation, 10);
  *request.mutable_session() = Key('c');
  EXPECT_TRUE(absl::IsInvalidArgument(Refusal(worker, request))) << "a prefill worker reads it";
}

INSTANTIATE_TEST_SUITE_P(Models, LocalPrefillTest, testing::Values("tiny-gemma2", "tiny-recurrentgemma"),
                         [](const auto& info) { return std::string(info.param).substr(5); });

constexpr char kModel[] = "tiny-recurrentgemma";

TEST(LocalPrefillRefusalTest, CanBeTurnedOff) {
  DecodeWorker worker({.model = kModel, .engine = {.local_prefill_chunk = 0}});
  const DecodeRequest request = MakeRequest(LoopModel(kModel), RandomPrompt(5, 1), 4);
  const absl::Status status = Refusal(worker, Local(request));
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_EQ(ErrorReason(status), "LOCAL_PREFILL_REFUSED");
  ExpectNothingHeld(worker);
}

TEST(LocalPrefillRefusalTest, NobodyMaySendTheStateOfAPromptThatIsComputedHere) {
  DecodeWorker worker({.model = kModel, .engine = {.local_prefill_chunk = 1, .step_delay = absl::Milliseconds(5)}});
  const Expectation expected = RunPlainLoop(kModel, MakeRequest(LoopModel(kModel), RandomPrompt(40, 1), 4));
  RunStream run(worker.stub(), Local(expected.request));
  const auto reservation = run.Reserve();
  ASSERT_TRUE(reservation.has_value());
  // Taken a moment after the reservation was told: until then a sender could only make the request fail.
  WaitUntil([&] { return worker.load().Snapshot().queued() == 0; });
  EXPECT_TRUE(absl::IsNotFound(HandOver(worker.stub(), *reservation, expected.messages)));
  ExpectSame(expected, run.End());
  ExpectNothingHeld(worker);
}

TEST(LocalPrefillRefusalTest, ACancelledPromptIsNotComputedToItsEnd) {
  DecodeWorker worker({.model = kModel, .engine = {.local_prefill_chunk = 1, .step_delay = absl::Milliseconds(5)}});
  RunStream run(worker.stub(), Local(MakeRequest(LoopModel(kModel), RandomPrompt(1500, 1), 4)));
  ASSERT_TRUE(run.Reserve().has_value());
  WaitUntil([&] { return worker.Metric("baton_prompt_tokens_total", "computed") > 0; });
  EXPECT_GT(worker.load().Snapshot().queued_tokens(), 0);
  run.Cancel();
  EXPECT_TRUE(absl::IsCancelled(run.End().status));
  ExpectNothingHeld(worker);
  EXPECT_EQ(worker.load().Snapshot().queued_tokens(), 0);
  EXPECT_LT(worker.Metric("baton_prompt_tokens_total", "computed"), 1500);
  EXPECT_EQ(worker.Metric("baton_generation_tokens_total"), 0);
}

}  // namespace
}  // namespace baton
