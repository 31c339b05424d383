// The prefill worker through its service: what it answers, and that nothing it was given stays behind. The handoff's
// other end is a FakeDecode; tests/parity/ has the real one.
#include "prefill/prefill_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <functional>
#include <thread>

#include "common/sampling/sampler.h"
#include "common/state/state_codec.h"
#include "tests/prefill/test_worker.h"

namespace baton {
namespace {

using Behaviour = FakeDecode::Behaviour;
using worker::v1::PrefillRequest;

Model& WorkerModel() {
  static const std::unique_ptr<Model> model = LoadTestModel(kTinyGemma2);
  return *model;
}

// For what the tests compute themselves: a model has one user.
Model& OwnModel() {
  static const std::unique_ptr<Model> model = LoadTestModel(kTinyGemma2);
  return *model;
}

TestWorkerOptions Options(int64_t step_tokens = 64) {
  TestWorkerOptions options;
  options.engine.step_tokens = step_tokens;
  return options;
}

// Steps that take long enough for a test to act between them.
TestWorkerOptions SlowOptions(int64_t step_tokens = 8) {
  TestWorkerOptions options = Options(step_tokens);
  options.engine.step_delay = absl::Milliseconds(20);
  return options;
}

struct Local {
  SequenceState state;
  std::vector<float> logits;  // [tokens, vocab_size]
};

Local RunLocally(const std::vector<int32_t>& tokens) {
  static MemoryBudget budget(int64_t{1} << 30);
  Model& model = OwnModel();
  absl::StatusOr<SequenceState> state =
      SequenceState::Create(model.MakeStateLayout(128), budget, static_cast<int64_t>(tokens.size()));
  BATON_CHECK(state.ok());
  std::vector<float> logits = RunTokens(model, *state, tokens, 0);
  return Local{*std::move(state), std::move(logits)};
}

absl::Span<const float> Row(const Local& local, size_t position) {
  const size_t vocab = OwnModel().config().vocab_size;
  return absl::MakeSpan(local.logits).subspan(position * vocab, vocab);
}

int32_t Greedy(absl::Span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

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
  EXPECT_EQ(worker.MetricSum("baton_state_bytes_total"), worker.budget().total());
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
    EXPECT_EQ(reader.commit().first_token.id, result.first_token->id());
    EXPECT_EQ(reader.commit().first_token.logprob, result.first_token->logprobs().logprob());
    EXPECT_EQ(reader.commit().first_token.top_ids.size(), 2u);
    EXPECT_TRUE(VisibleState(*state) == VisibleState(RunLocally(prompt).state)) << "chunks of " << step_tokens;

    EXPECT_TRUE(worker.BecomesIdle());
    EXPECT_EQ(worker.MetricSum("baton_handoff_bytes_total"), static_cast<double>(received.bytes.size()));
    EXPECT_EQ(worker.MetricSum("baton_handoff_bytes"), 1);
    EXPECT_EQ(worker.MetricSum("baton_handoff_seconds"), 2);
    EXPECT_EQ(worker.MetricSum("baton_handoff_failures_total"), 0);
  }
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
  ASSERT_TRUE(decode.WaitForEnd(1));
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

TEST(PrefillServiceTest, AFullQueueRefusesWithWhenToComeBack) {
  TestWorkerOptions options = SlowOptions();
  options.engine.max_queue = 2;
  TestPrefillWorker worker(&WorkerModel(), options);
  std::vector<std::unique_ptr<PrefillStream>> streams;
  // Each longer than the one before, so that none is let in between.
  for (int i = 0; i < 3; ++i) {
    streams.push_back(worker.Start(worker.Request(RandomPrompt(OwnModel(), 1500 + i, i))));
    ASSERT_TRUE(worker.WaitForLoad(1, i));
  }
  const PrefillResult refused = worker.Run(worker.Request(RandomPrompt(OwnModel(), 10, 7)));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(refused.reason(), "QUEUE_FULL");
  EXPECT_GT(RetryDelay(refused.absl_status()), absl::ZeroDuration());
  EXPECT_GE(worker.load().Snapshot().queued_tokens(), 3001);
  for (auto& stream : streams) stream->Cancel();
  for (auto& stream : streams) {
    EXPECT_EQ(stream->ReadAll().status.error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_TRUE(worker.Run(worker.Request(RandomPrompt(OwnModel(), 10, 7))).status.ok()) << "there is room again";
}

TEST(PrefillServiceTest, CancelInTheQueue) {
  TestPrefillWorker worker(&WorkerModel(), SlowOptions());
  const auto running = worker.Start(worker.Request(RandomPrompt(OwnModel(), 1500, 1)));
  ASSERT_TRUE(worker.WaitForLoad(1, 0));
  const auto queued = worker.Start(worker.Request(RandomPrompt(OwnModel(), 1600, 2)));
  ASSERT_TRUE(worker.WaitForLoad(1, 1));
  queued->Cancel();
  EXPECT_EQ(queued->ReadAll().status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(worker.WaitForLoad(1, 0)) << "the other one goes on";
  running->Cancel();
  EXPECT_EQ(running->ReadAll().status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_LT(worker.tokens_done(), 1500);
  EXPECT_EQ(worker.MetricSum("baton_sequences_finished_total", "reason", "cancelled"), 2);
}

TEST(PrefillServiceTest, CancelWhileComputing) {
  TestPrefillWorker worker(&WorkerModel(), SlowOptions());
  FakeDecode decode;
  const auto stream = worker.Start(worker.RequestTo(decode.endpoint(), 1, RandomPrompt(OwnModel(), 1500, 1)));
  ASSERT_TRUE(Eventually([&] { return worker.tokens_done() >= 24; }));
  EXPECT_GT(worker.budget().used(), 0);
  stream->Cancel();
  EXPECT_EQ(stream->ReadAll().status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_LT(worker.tokens_done(), 1500);
  ASSERT_TRUE(decode.WaitForEnd(1));
  EXPECT_TRUE(decode.Get(1).cancelled);
  EXPECT_EQ(worker.MetricSum("baton_handoff_failures_total", "reason", "cancelled"), 1);
}

TEST(PrefillServiceTest, CancelWhileHandingOff) {
  for (Behaviour behaviour : {Behaviour::kStall, Behaviour::kStallAnswer}) {
    TestWorkerOptions options = Options(512);
    // Most of the state has to wait in the worker.
    options.engine.outbound_bytes = 1;
    options.engine.min_outbound_bytes = 1;
    TestPrefillWorker worker(&WorkerModel(), options);
    FakeDecode decode;
    decode.Plan(1, {behaviour, grpc::Status::OK, 2000});
    const auto stream = worker.Start(worker.RequestTo(decode.endpoint(), 1, RandomPrompt(OwnModel(), 2000, 1)));
    ASSERT_TRUE(stream->ReadFirstToken()) << "it does not wait for the handoff";
    ASSERT_TRUE(decode.WaitForMessages(1, 1));
    if (behaviour == Behaviour::kStall) {
      EXPECT_GT(worker.budget().used(), 0);
    } else {
      EXPECT_TRUE(Eventually([&] { return decode.Get(1).half_closed; }));
      EXPECT_EQ(worker.budget().used(), 0) << "everything has been serialized";
    }
    EXPECT_EQ(worker.load().Snapshot().running(), 1);
    stream->Cancel();
    EXPECT_EQ(stream->ReadAll().status.error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(worker.BecomesIdle());
    ASSERT_TRUE(decode.WaitForEnd(1));
    EXPECT_TRUE(decode.Get(1).cancelled);
  }
}

TEST(PrefillServiceTest, ADeadlineEndsTheWork) {
  TestPrefillWorker worker(&WorkerModel(), SlowOptions());
  FakeDecode decode;
  const PrefillRequest request = worker.RequestTo(decode.endpoint(), 1, RandomPrompt(OwnModel(), 2000, 1));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  auto reader = worker.stub()->Run(&context, request);
  worker::v1::PrefillEvent event;
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_LT(worker.tokens_done(), 2000);
}

TEST(PrefillServiceTest, ARefusedHandoffStopsTheComputation) {
  TestPrefillWorker worker(&WorkerModel(), SlowOptions());
  FakeDecode decode;
  struct Case {
    grpc::Status said;
    grpc::StatusCode reported;
    const char* reason;
    const char* counted_as;
  };
  const std::vector<Case> cases = {
      {grpc::Status(grpc::StatusCode::NOT_FOUND, "no such reservation"), grpc::StatusCode::UNAVAILABLE,
       "HANDOFF_FAILED", "refused"},
      {grpc::Status(grpc::StatusCode::CANCELLED, "its Run ended"), grpc::StatusCode::UNAVAILABLE, "HANDOFF_FAILED",
       "cancelled"},
      {grpc::Status(grpc::StatusCode::DATA_LOSS, "checksum"), grpc::StatusCode::DATA_LOSS, "STATE_CORRUPT", "corrupt"},
      {ToGrpcStatus(WithReason(absl::FailedPreconditionError("another model"), "FINGERPRINT_MISMATCH")),
       grpc::StatusCode::FAILED_PRECONDITION, "FINGERPRINT_MISMATCH", "refused"},
  };
  uint64_t id = 1;
  for (const Case& c : cases) {
    const int64_t before = worker.tokens_done();
    const double counted = worker.MetricSum("baton_handoff_failures_total", "reason", c.counted_as);
    decode.Plan(id, {Behaviour::kRefuse, c.said, 0});
    const PrefillResult result =
        worker.Run(worker.RequestTo(decode.endpoint(), id++, RandomPrompt(OwnModel(), 1500, 1)));
    EXPECT_EQ(result.status.error_code(), c.reported) << result.absl_status();
    EXPECT_EQ(result.reason(), c.reason);
    EXPECT_THAT(result.status.error_message(), ::testing::HasSubstr(c.said.error_message()));
    EXPECT_FALSE(result.first_token.has_value());
    EXPECT_LT(worker.tokens_done() - before, 1500) << "it stopped";
    EXPECT_TRUE(worker.BecomesIdle());
    EXPECT_EQ(worker.MetricSum("baton_handoff_failures_total", "reason", c.counted_as), counted + 1);
  }
}

TEST(PrefillServiceTest, AnAnswerWithoutTheWholeStateIsNotBelieved) {
  TestPrefillWorker worker(&WorkerModel(), Options());
  FakeDecode decode;
  decode.Plan(1, {Behaviour::kRefuse, grpc::Status::OK, 0});
  decode.Plan(2, {Behaviour::kAccept, grpc::Status::OK, 49});
  for (uint64_t id : {1, 2}) {
    const PrefillResult result = worker.Run(worker.RequestTo(decode.endpoint(), id, RandomPrompt(OwnModel(), 50, 1)));
    EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE) << result.absl_status();
    EXPECT_EQ(result.reason(), "HANDOFF_FAILED");
    EXPECT_FALSE(result.done.has_value());
  }
  EXPECT_TRUE(worker.BecomesIdle());
}

TEST(PrefillServiceTest, ADeadReceiverEndsOnlyItsOwnPrompts) {
  TestPrefillWorker worker(&WorkerModel(), SlowOptions(32));
  FakeDecode alive;
  auto dying = std::make_unique<FakeDecode>();
  dying->Plan(1, {Behaviour::kStall, grpc::Status::OK, 0});
  alive.Plan(2, {Behaviour::kAccept, grpc::Status::OK, 1600});
  const auto doomed = worker.Start(worker.RequestTo(dying->endpoint(), 1, RandomPrompt(OwnModel(), 2000, 1)));
  const auto other = worker.Start(worker.RequestTo(alive.endpoint(), 2, RandomPrompt(OwnModel(), 1600, 2)));
  ASSERT_TRUE(dying->WaitForMessages(1, 1));
  const std::string endpoint = dying->endpoint();
  dying->Die();
  const PrefillResult result = doomed->ReadAll();
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE) << result.absl_status();
  EXPECT_EQ(result.reason(), "HANDOFF_FAILED");
  const PrefillResult survivor = other->ReadAll();
  EXPECT_TRUE(survivor.status.ok()) << survivor.absl_status();
  EXPECT_EQ(alive.Get(2).bytes.size(), static_cast<size_t>(survivor.done->handoff_bytes()));
  EXPECT_TRUE(worker.BecomesIdle());

  const PrefillResult unreachable = worker.Run(worker.RequestTo(endpoint, 3, RandomPrompt(OwnModel(), 20, 3)));
  EXPECT_EQ(unreachable.status.error_code(), grpc::StatusCode::UNAVAILABLE) << unreachable.absl_status();
  EXPECT_EQ(unreachable.reason(), "HANDOFF_FAILED");
  EXPECT_GE(worker.MetricSum("baton_handoff_failures_total", "reason", "unreachable"), 1);
  EXPECT_TRUE(worker.BecomesIdle());
}

TEST(PrefillServiceTest, AStalledReceiverHoldsUpNobodyElse) {
  TestWorkerOptions options = Options(256);
  options.engine.outbound_bytes = 1;
  options.engine.min_outbound_bytes = 1;
  TestPrefillWorker worker(&WorkerModel(), options);
  FakeDecode decode;
  decode.Plan(1, {Behaviour::kStall, grpc::Status::OK, 2000});
  decode.Plan(2, {Behaviour::kAccept, grpc::Status::OK, 1000});
  const auto stalled = worker.Start(worker.RequestTo(decode.endpoint(), 1, RandomPrompt(OwnModel(), 2000, 1)));
  ASSERT_TRUE(stalled->ReadFirstToken());
  const PrefillResult other = worker.Run(worker.RequestTo(decode.endpoint(), 2, RandomPrompt(OwnModel(), 1000, 2)));
  EXPECT_TRUE(other.status.ok()) << other.absl_status();
  EXPECT_GT(worker.budget().used(), 0) << "the stalled one still waits";

  decode.Release(1);
  const PrefillResult result = stalled->ReadAll();
  ASSERT_TRUE(result.status.ok()) << result.absl_status();
  EXPECT_TRUE(worker.BecomesIdle());
  // Rows that waited in the state are what they were.
  MemoryBudget budget(int64_t{1} << 30);
  absl::StatusOr<SequenceState> state = SequenceState::Create(OwnModel().MakeStateLayout(1), budget, 2001);
  ASSERT_TRUE(state.ok());
  StateReader reader(OwnModel().fingerprint(), &*state);
  ASSERT_TRUE(reader.Feed(decode.Get(1).bytes).ok());
  ASSERT_TRUE(reader.committed());
  EXPECT_TRUE(VisibleState(*state) == VisibleState(RunLocally(RandomPrompt(OwnModel(), 2000, 1)).state));
}

TEST(PrefillServiceTest, PromptsWaitForMemoryInOrder) {
  TestWorkerOptions options = SlowOptions(64);
  options.memory = WorkerModel().MakeStateLayout(64)->BytesFor(600);
  TestPrefillWorker worker(&WorkerModel(), options);
  std::vector<std::unique_ptr<PrefillStream>> streams;
  for (int i = 0; i < 4; ++i) streams.push_back(worker.Start(worker.Request(RandomPrompt(OwnModel(), 500, i))));
  for (auto& stream : streams) {
    const PrefillResult result = stream->ReadAll();
    EXPECT_TRUE(result.status.ok()) << result.absl_status();
    EXPECT_LE(worker.budget().used(), worker.budget().total());
  }
  EXPECT_TRUE(worker.BecomesIdle());
}

TEST(PrefillServiceTest, DrainingRefusesNewCallsAndFinishesOldOnes) {
  TestPrefillWorker worker(&WorkerModel(), SlowOptions(64));
  const auto running = worker.Start(worker.Request(RandomPrompt(OwnModel(), 600, 1)));
  ASSERT_TRUE(worker.WaitForLoad(1, 0));
  worker.gate().Close();
  const PrefillResult refused = worker.Run(worker.Request(RandomPrompt(OwnModel(), 10, 2)));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(refused.reason(), "DRAINING");
  EXPECT_TRUE(running->ReadAll().status.ok());
  EXPECT_TRUE(worker.gate().Drain(kTestTimeout));
  EXPECT_TRUE(worker.BecomesIdle());
}

TEST(PrefillServiceTest, StoppingTheEngineEndsEveryCall) {
  TestPrefillWorker worker(&WorkerModel(), SlowOptions());
  FakeDecode decode;
  const auto running = worker.Start(worker.RequestTo(decode.endpoint(), 1, RandomPrompt(OwnModel(), 1500, 1)));
  const auto queued = worker.Start(worker.Request(RandomPrompt(OwnModel(), 1600, 2)));
  ASSERT_TRUE(worker.WaitForLoad(1, 1));
  worker.engine().Stop();
  for (const auto* stream : {&running, &queued}) {
    const PrefillResult result = (*stream)->ReadAll();
    EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(result.reason(), "DRAINING");
  }
  const PrefillResult late = worker.Run(worker.Request(RandomPrompt(OwnModel(), 10, 2)));
  EXPECT_EQ(late.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(worker.BecomesIdle());
}

// Calls begin and end at all stages at once; afterwards everything has been given back.
TEST(PrefillServiceTest, RandomCancelsLeaveNothingBehind) {
  TestWorkerOptions options = Options(48);
  options.engine.outbound_bytes = 4096;
  options.engine.min_outbound_bytes = 4096;
  options.memory = WorkerModel().MakeStateLayout(48)->BytesFor(800);
  TestPrefillWorker worker(&WorkerModel(), options);
  FakeDecode decode;
  std::atomic<int> succeeded{0};
  std::vector<std::thread> clients;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([&, client] {
      std::mt19937_64 random(client);
      for (int i = 0; i < 15; ++i) {
        const uint64_t id = 100 * client + i + 1;
        const int64_t tokens = 2 + static_cast<int64_t>(random() % 500);
        const auto behaviour = static_cast<Behaviour>(random() % 4);
        decode.Plan(id, {behaviour, grpc::Status(grpc::StatusCode::NOT_FOUND, "gone"), tokens});
        PrefillRequest request;
        request = worker.RequestTo(decode.endpoint(), id, RandomPrompt(OwnModel(), tokens, id));
        request.set_priority(static_cast<int>(random() % 3));
        const auto stream = worker.Start(request);
        switch (random() % 3) {
          case 0:
            stream->Cancel();
            break;
          case 1:
            stream->ReadFirstToken();
            stream->Cancel();
            break;
          default:
            decode.Release(id);
        }
        const PrefillResult result = stream->ReadAll();
        EXPECT_TRUE(result.in_order);
        EXPECT_TRUE(!result.status.ok() || result.done.has_value());
        if (result.status.ok()) ++succeeded;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_GT(succeeded, 0);
  EXPECT_GE(worker.MetricSum("baton_sequences_finished_total", "reason", "done"), succeeded);
}

}  // namespace
}  // namespace baton
