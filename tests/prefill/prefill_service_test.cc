// The prefill worker through its service: what it answers. The handoff's other end is a FakeDecode; tests/parity/ has
// the real one. How calls end early: prefill_endings_test.cc.
#include "prefill/prefill_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "common/sampling/sampler.h"
#include "common/state/state_codec.h"
#include "tests/prefill/service_fixture.h"

namespace baton {
namespace {

using Behaviour = FakeDecode::Behaviour;
using worker::v1::PrefillRequest;

TEST(PrefillServiceTest, TheFirstTokenIsTheModelsAndEndsAShortRequest) {
  TestPrefillWorker worker(&WorkerModel(), Options());
  const std::vector<int32_t> prompt = RandomPrompt(OwnModel(), 100, 1);
  PrefillRequest request = worker.Request(prompt);
  request.set_logprobs(true);
  request.set_top_logprobs(3);
  const PrefillResult result = worker.Run(request);
  ASSERT_TRUE(result.status.ok()) << result.absl_status();
  EXPECT_TRUE(result.in_order);
  const Local local = RunLocally(prompt);
  ASSERT_TRUE(result.first_token.has_value());
  EXPECT_EQ(result.first_token->id(), Greedy(Row(local, 99)));
  EXPECT_EQ(result.first_token->done(), worker::v1::LENGTH);
  EXPECT_TRUE(result.first_token->logprobs().is_greedy());
  ASSERT_EQ(result.first_token->logprobs().top_ids_size(), 3);
  EXPECT_EQ(result.first_token->logprobs().top_ids(0), result.first_token->id());
  EXPECT_EQ(result.first_token->logprobs().logprob(),
            ComputeLogprob(Row(local, 99), result.first_token->id(), 3).logprob);
  ASSERT_TRUE(result.done.has_value());
  EXPECT_GT(result.done->compute_seconds(), 0);
  EXPECT_EQ(result.done->handoff_bytes(), 0);
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_EQ(worker.MetricSum("baton_prompt_tokens_total", "source", "computed"), 100);
  EXPECT_EQ(worker.MetricSum("baton_generation_tokens_total"), 1);
  EXPECT_EQ(worker.MetricSum("baton_sequences_finished_total", "reason", "done"), 1);
  EXPECT_EQ(worker.MetricSum("baton_queue_seconds"), 1);
  EXPECT_EQ(worker.MetricSum("baton_prefill_seconds"), 1);
  EXPECT_EQ(worker.MetricSum("baton_step_tokens"), 2);
  EXPECT_EQ(worker.MetricSum("baton_state_bytes_used"), 0);
  EXPECT_EQ(worker.MetricSum("baton_state_bytes_limit"), worker.budget().total());
}

TEST(PrefillServiceTest, SamplingDependsOnSeedAndPosition) {
  TestPrefillWorker worker(&WorkerModel(), Options());
  const std::vector<int32_t> prompt = RandomPrompt(OwnModel(), 30, 2);
  const Local local = RunLocally(prompt);
  Sampler sampler;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    PrefillRequest request = worker.Request(prompt);
    request.mutable_sampling()->set_temperature(1.5);
    request.mutable_sampling()->set_top_p(0.95);
    request.mutable_sampling()->set_repetition_penalty(1.3);
    request.mutable_sampling()->set_frequency_penalty(0.5);
    request.mutable_sampling()->set_seed(seed);
    request.set_generated_tokens(12);
    request.mutable_stopping()->set_max_new_tokens(13);
    const PrefillResult result = worker.Run(request);
    ASSERT_TRUE(result.status.ok()) << result.absl_status();
    TokenHistory history;
    history.AddPrompt(absl::MakeSpan(prompt).subspan(0, 18));
    for (size_t i = 18; i < 30; ++i) history.AddOutput(prompt[i]);
    EXPECT_EQ(result.first_token->id(), sampler.Sample(Row(local, 29), FromProto(request.sampling()), history, {}, 30));
    EXPECT_EQ(result.first_token->done(), worker::v1::LENGTH);
  }
}

TEST(PrefillServiceTest, TheStateArrivesWholeAndThenTheCallEnds) {
  for (int64_t step_tokens : {7, 64, 512}) {
    TestPrefillWorker worker(&WorkerModel(), Options(step_tokens));
    FakeDecode decode;
    const std::vector<int32_t> prompt = RandomPrompt(OwnModel(), 300, 3);
    decode.Plan(5, {Behaviour::kAccept, grpc::Status::OK, 300});
    PrefillRequest request = worker.RequestTo(decode.endpoint(), 5, prompt);
    request.set_logprobs(true);
    request.set_top_logprobs(2);
    const PrefillResult result = worker.Run(request);
    ASSERT_TRUE(result.status.ok()) << result.absl_status();
    ASSERT_TRUE(result.first_token.has_value());
    EXPECT_FALSE(result.first_token->has_done());

    const FakeDecode::Received received = decode.Get(5);
    EXPECT_TRUE(received.half_closed);
    EXPECT_EQ(received.first.generation(), 3u);
    EXPECT_EQ(received.first.boot_id(), "boot");
    EXPECT_LE(received.largest, size_t{257} << 10);
    EXPECT_EQ(result.done->handoff_bytes(), static_cast<int64_t>(received.bytes.size()));

    MemoryBudget budget(int64_t{1} << 30);
    absl::StatusOr<SequenceState> state = SequenceState::Create(OwnModel().MakeStateLayout(1), budget, 310);
    ASSERT_TRUE(state.ok());
    StateReader reader(OwnModel().fingerprint(), &*state);
    ASSERT_TRUE(reader.Feed(received.bytes).ok());
    ASSERT_TRUE(reader.committed());
    EXPECT_EQ(reader.commit().position, 300);
    EXPECT_EQ(reader.commit().first_tokens[0].id, result.first_token->id());
    EXPECT_EQ(reader.commit().first_tokens[0].logprob, result.first_token->logprobs().logprob());
    EXPECT_EQ(reader.commit().first_tokens[0].top_ids.size(), 2u);
    EXPECT_TRUE(VisibleState(*state) == VisibleState(RunLocally(prompt).state)) << "chunks of " << step_tokens;

    EXPECT_TRUE(worker.BecomesIdle());
    EXPECT_EQ(worker.MetricSum("baton_handoff_bytes_total"), static_cast<double>(received.bytes.size()));
    EXPECT_EQ(worker.MetricSum("baton_handoff_bytes"), 1);
    EXPECT_EQ(worker.MetricSum("baton_handoff_seconds"), 2);
    EXPECT_EQ(worker.MetricSum("baton_handoff_failures_total"), 0);
  }
}

TEST(PrefillServiceTest, SamplesDrawTheirFirstTokensFromOneRow) {
  TestPrefillWorker worker(&WorkerModel(), Options());
  FakeDecode decode;
  const std::vector<int32_t> prompt = RandomPrompt(OwnModel(), 50, 6);
  decode.Plan(1, {Behaviour::kAccept, grpc::Status::OK, 50});
  PrefillRequest request = worker.RequestTo(decode.endpoint(), 1, prompt);
  request.set_logprobs(true);
  request.mutable_sampling()->set_temperature(3);
  request.mutable_sampling()->set_seed(7);
  for (uint64_t seed = 8; seed < 20; ++seed) request.mutable_sampling()->add_further_seeds(seed);
  const PrefillResult result = worker.Run(request);
  ASSERT_TRUE(result.status.ok()) << result.absl_status();
  ASSERT_EQ(result.first_token->further_size(), 12);

  const Local local = RunLocally(prompt);
  Sampler sampler;
  std::set<int32_t> different;
  std::vector<int32_t> expected;
  for (uint64_t seed = 7; seed < 20; ++seed) {
    SamplingParams params = FromProto(request.sampling());
    params.seed = seed;
    const int32_t id = sampler.Sample(Row(local, 49), params, TokenHistory(), {}, 50);
    const worker::v1::FirstToken& first =
        seed == 7 ? *result.first_token : result.first_token->further(static_cast<int>(seed) - 8);
    EXPECT_EQ(first.id(), id) << "seed " << seed;
    EXPECT_EQ(first.logprobs().logprob(), ComputeLogprob(Row(local, 49), id, 0).logprob);
    EXPECT_FALSE(first.has_done());
    different.insert(id);
    expected.push_back(id);
  }
  EXPECT_GT(different.size(), 4u) << "too alike to show anything";

  MemoryBudget budget(int64_t{1} << 30);
  SequenceState state = SequenceState::Create(OwnModel().MakeStateLayout(1), budget, 60).value();
  StateReader reader(OwnModel().fingerprint(), &state);
  ASSERT_TRUE(reader.Feed(decode.Get(1).bytes).ok());
  ASSERT_TRUE(reader.committed());
  ASSERT_EQ(reader.commit().first_tokens.size(), 13u);
  for (size_t i = 0; i < 13; ++i) {
    EXPECT_EQ(reader.commit().first_tokens[i].id, expected[i]);
    EXPECT_FALSE(reader.commit().first_tokens[i].ends);
  }
  EXPECT_EQ(worker.MetricSum("baton_generation_tokens_total"), 13);

  // Some end at once: they are marked, and the others are handed over. When all end, nothing is.
  request.mutable_stopping()->add_stop_token_ids(expected[3]);
  request.mutable_handoff()->set_reservation_id(2);
  decode.Plan(2, {Behaviour::kAccept, grpc::Status::OK, 50});
  const PrefillResult marked = worker.Run(request);
  ASSERT_TRUE(marked.status.ok()) << marked.absl_status();
  SequenceState second = SequenceState::Create(OwnModel().MakeStateLayout(1), budget, 60).value();
  StateReader marked_reader(OwnModel().fingerprint(), &second);
  ASSERT_TRUE(marked_reader.Feed(decode.Get(2).bytes).ok());
  ASSERT_TRUE(marked_reader.committed());
  for (size_t i = 0; i < 13; ++i) {
    EXPECT_EQ(marked_reader.commit().first_tokens[i].ends, expected[i] == expected[3]) << i;
  }
  EXPECT_EQ(marked.first_token->further(2).done(), worker::v1::STOP_TOKEN);

  for (const int32_t id : different) request.mutable_stopping()->add_stop_token_ids(id);
  request.mutable_handoff()->set_reservation_id(3);
  const PrefillResult ended = worker.Run(request);
  ASSERT_TRUE(ended.status.ok()) << ended.absl_status();
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_FALSE(decode.Get(3).half_closed) << "cancelled, not completed";
}

TEST(PrefillServiceTest, AFirstTokenThatStopsIsNotHandedOff) {
  TestPrefillWorker worker(&WorkerModel(), Options());
  FakeDecode decode;
  const std::vector<int32_t> prompt = RandomPrompt(OwnModel(), 80, 4);
  const Local local = RunLocally(prompt);
  const int32_t stop = Greedy(Row(local, 79));
  PrefillRequest request = worker.RequestTo(decode.endpoint(), 1, prompt);
  request.mutable_stopping()->add_stop_token_ids(stop);
  PrefillResult result = worker.Run(request);
  ASSERT_TRUE(result.status.ok()) << result.absl_status();
  EXPECT_EQ(result.first_token->id(), stop);
  EXPECT_EQ(result.first_token->done(), worker::v1::STOP_TOKEN);
  EXPECT_TRUE(result.done.has_value());
  // On a busy machine the call may end before it has reached anybody.
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_FALSE(decode.Get(1).half_closed) << "cancelled, not completed";

  // With a minimum that is not reached it cannot be sampled.
  request.mutable_stopping()->set_min_new_tokens(1);
  request.mutable_handoff()->set_reservation_id(2);
  decode.Plan(2, {Behaviour::kAccept, grpc::Status::OK, 80});
  result = worker.Run(request);
  ASSERT_TRUE(result.status.ok()) << result.absl_status();
  EXPECT_NE(result.first_token->id(), stop);
  EXPECT_FALSE(result.first_token->has_done());

  // Tokens generated before count.
  request.set_generated_tokens(1);
  request.mutable_handoff()->set_reservation_id(3);
  result = worker.Run(request);
  EXPECT_EQ(result.first_token->id(), stop);
  EXPECT_EQ(result.first_token->done(), worker::v1::STOP_TOKEN);
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_EQ(worker.MetricSum("baton_handoff_failures_total"), 0);
}

// What a prompt is scored as does not depend on how it is cut.
TEST(PrefillServiceTest, ScoresAcrossChunksEqualThoseInOneGo) {
  const std::vector<int32_t> prompt = RandomPrompt(OwnModel(), 200, 5);
  const Local local = RunLocally(prompt);
  for (int64_t step_tokens : {3, 16, 512}) {
    for (int score_from : {1, 100, 199}) {
      for (bool score_only : {false, true}) {
        TestWorkerOptions options = Options(step_tokens);
        options.engine.step_logit_rows = 24;
        TestPrefillWorker worker(&WorkerModel(), options);
        PrefillRequest request = worker.Request(prompt);
        request.set_score_from(score_from);
        request.set_score_only(score_only);
        request.set_top_logprobs(2);
        const PrefillResult result = worker.Run(request);
        ASSERT_TRUE(result.status.ok()) << result.absl_status();
        EXPECT_TRUE(result.in_order);
        EXPECT_EQ(result.first_token.has_value(), !score_only);
        EXPECT_EQ(result.first_scored, score_from);
        ASSERT_EQ(static_cast<int>(result.scores.size()), 200 - score_from);
        for (int i = score_from; i < 200; ++i) {
          const TokenLogprob expected = ComputeLogprob(Row(local, i - 1), prompt[i], 2);
          const worker::v1::TokenLogprobs& actual = result.scores[i - score_from];
          ASSERT_EQ(result.scored_ids[i - score_from], prompt[i]);
          ASSERT_EQ(actual.logprob(), expected.logprob) << "token " << i << " in chunks of " << step_tokens;
          ASSERT_EQ(actual.is_greedy(), expected.is_greedy);
          ASSERT_EQ(actual.top_ids(1), expected.top[1].first);
        }
        EXPECT_TRUE(worker.BecomesIdle());
      }
    }
  }
}

TEST(PrefillServiceTest, ManyPromptsAtOnceGiveWhatEachGivesAlone) {
  TestPrefillWorker worker(&WorkerModel(), Options(32));
  FakeDecode decode;
  constexpr int kPrompts = 12;
  std::vector<std::unique_ptr<PrefillStream>> streams;
  for (int i = 0; i < kPrompts; ++i) {
    const int tokens = 5 + 37 * i % 190;
    decode.Plan(i + 1, {Behaviour::kAccept, grpc::Status::OK, tokens});
    PrefillRequest request = worker.RequestTo(decode.endpoint(), i + 1, RandomPrompt(OwnModel(), tokens, 100 + i));
    request.set_priority(i % 3);
    streams.push_back(worker.Start(request));
  }
  for (int i = 0; i < kPrompts; ++i) {
    const PrefillResult result = streams[i]->ReadAll();
    ASSERT_TRUE(result.status.ok()) << result.absl_status();
    const int tokens = 5 + 37 * i % 190;
    const Local local = RunLocally(RandomPrompt(OwnModel(), tokens, 100 + i));
    EXPECT_EQ(result.first_token->id(), Greedy(Row(local, tokens - 1))) << "prompt " << i;
  }
  EXPECT_TRUE(worker.BecomesIdle());
}

TEST(PrefillServiceTest, BadRequestsAreRefusedByName) {
  TestWorkerOptions options = Options();
  options.memory = int64_t{1} << 20;
  TestPrefillWorker worker(&WorkerModel(), options);
  struct Case {
    const char* name;
    std::function<void(PrefillRequest*)> change;
    grpc::StatusCode code;
    const char* message;
    const char* reason;
  };
  const std::vector<Case> cases = {
      {"fingerprint of another model", [](PrefillRequest* r) { r->mutable_fingerprint()->at(0) ^= 1; },
       grpc::StatusCode::FAILED_PRECONDITION, "fingerprint", "FINGERPRINT_MISMATCH"},
      {"fingerprint too short", [](PrefillRequest* r) { r->set_fingerprint("abc"); },
       grpc::StatusCode::INVALID_ARGUMENT, "fingerprint", ""},
      {"empty prompt", [](PrefillRequest* r) { r->clear_tokens(); }, grpc::StatusCode::INVALID_ARGUMENT, "tokens", ""},
      {"negative id", [](PrefillRequest* r) { r->set_tokens(3, -1); }, grpc::StatusCode::INVALID_ARGUMENT, "tokens[3]",
       ""},
      {"id beyond the vocabulary", [](PrefillRequest* r) { r->set_tokens(0, 2048); },
       grpc::StatusCode::INVALID_ARGUMENT, "tokens[0]", ""},
      {"longer than the model", [](PrefillRequest* r) { r->mutable_tokens()->Resize(3000, 7); },
       grpc::StatusCode::INVALID_ARGUMENT, "tokens", "PROMPT_TOO_LONG"},
      {"longer than the memory", [](PrefillRequest* r) { r->mutable_tokens()->Resize(1500, 7); },
       grpc::StatusCode::INVALID_ARGUMENT, "--memory", "PREFILL_MEMORY_FULL"},
      {"temperature", [](PrefillRequest* r) { r->mutable_sampling()->set_temperature(-1); },
       grpc::StatusCode::INVALID_ARGUMENT, "sampling.temperature", ""},
      {"nothing to generate", [](PrefillRequest* r) { r->mutable_stopping()->set_max_new_tokens(0); },
       grpc::StatusCode::INVALID_ARGUMENT, "stopping.max_new_tokens", ""},
      {"no handoff", [](PrefillRequest* r) { r->clear_handoff(); }, grpc::StatusCode::INVALID_ARGUMENT, "handoff", ""},
      {"handoff to no port", [](PrefillRequest* r) { r->mutable_handoff()->set_endpoint("host"); },
       grpc::StatusCode::INVALID_ARGUMENT, "handoff.endpoint", ""},
      {"handoff to a socket file", [](PrefillRequest* r) { r->mutable_handoff()->set_endpoint("unix:///tmp/x:1"); },
       grpc::StatusCode::INVALID_ARGUMENT, "handoff.endpoint", ""},
      {"handoff to a bad port", [](PrefillRequest* r) { r->mutable_handoff()->set_endpoint("host:99999"); },
       grpc::StatusCode::INVALID_ARGUMENT, "handoff.endpoint", ""},
      {"score_from beyond the end", [](PrefillRequest* r) { r->set_score_from(40); },
       grpc::StatusCode::INVALID_ARGUMENT, "score_from", ""},
      {"score_from the first token", [](PrefillRequest* r) { r->set_score_from(0); },
       grpc::StatusCode::INVALID_ARGUMENT, "score_from", ""},
      {"score_only of nothing",
       [](PrefillRequest* r) {
         r->clear_handoff();
         r->set_score_only(true);
       },
       grpc::StatusCode::INVALID_ARGUMENT, "score_from", ""},
      {"priority", [](PrefillRequest* r) { r->set_priority(101); }, grpc::StatusCode::INVALID_ARGUMENT, "priority", ""},
      {"generated tokens", [](PrefillRequest* r) { r->set_generated_tokens(40); }, grpc::StatusCode::INVALID_ARGUMENT,
       "generated_tokens", ""},
  };
  for (const Case& c : cases) {
    PrefillRequest request = worker.RequestTo("127.0.0.1:1", 1, RandomPrompt(OwnModel(), 40, 6));
    c.change(&request);
    const PrefillResult result = worker.Run(request);
    EXPECT_EQ(result.status.error_code(), c.code) << c.name << ": " << result.absl_status();
    EXPECT_THAT(result.status.error_message(), ::testing::HasSubstr(c.message)) << c.name;
    EXPECT_EQ(result.reason(), c.reason) << c.name;
    EXPECT_FALSE(result.first_token.has_value());
  }
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_EQ(worker.MetricSum("baton_sequences_finished_total", "reason", "refused"), cases.size());
}

}  // namespace
}  // namespace baton
