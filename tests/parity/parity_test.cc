// Separated equals in-process: a prompt computed by a prefill worker and continued by a decode worker, each behind its
// own server, gives token for token what one plain loop over Model::Forward and Sampler gives, and the state that
// travels is, bit for bit, the state that the loop computes. For every model family, whatever the chunk size, the
// prompt's length, the sampling and the company in the batch.
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/observe/metrics.h"
#include "common/rpc/worker_request.h"
#include "common/sampling/sampler.h"
#include "common/state/state_codec.h"
#include "decode/decode_service.h"
#include "tests/parity/state_tap.h"
#include "tests/prefill/test_worker.h"

namespace baton {
namespace {

using worker::v1::PrefillRequest;

class TestDecodeWorker {
 public:
  explicit TestDecodeWorker(Model* model)
      : load_(&budget_),
        service_(model, Options(*model), &budget_, &metrics_, &load_, &gate_),
        server_(RpcServerOptions{"127.0.0.1:0", 64 << 20}) {
    server_.AddService(&service_);
    BATON_CHECK(server_.Start().ok());
    service_.SetEndpoint(server_.address());
    server_.SetServing(true);
    stub_ = worker::v1::Decode::NewStub(NewChannel(server_.address()));
  }
  ~TestDecodeWorker() {
    server_.Stop(absl::ZeroDuration());
    service_.Stop();
  }

  std::string endpoint() const { return server_.address(); }
  worker::v1::Decode::Stub* stub() { return stub_.get(); }
  MemoryBudget& budget() { return budget_; }

 private:
  static DecodeServiceOptions Options(const Model& model) {
    DecodeServiceOptions options;
    options.model_name = "tiny";
    options.boot_id = "decode-boot";
    options.max_tokens = model.config().max_tokens;
    return options;
  }

  MemoryBudget budget_{int64_t{1} << 30};
  Metrics metrics_{"decode"};
  LoadReporter load_;
  DrainGate gate_;
  DecodeService service_;
  RpcServer server_;
  std::unique_ptr<worker::v1::Decode::Stub> stub_;
};

// What came out of one request, either way.
struct Generation {
  std::vector<int32_t> tokens;
  std::vector<float> logprobs;
  worker::v1::DoneReason reason = worker::v1::DONE_REASON_UNSPECIFIED;
  // As a decoder sees it when the prompt has been consumed. Empty when nothing was handed off.
  std::string state;
  std::string error;
};

using ParityCase = std::tuple<const char*, WeightPrecision>;

class ParityTest : public ::testing::TestWithParam<ParityCase> {
 protected:
  ParityTest()
      : prefill_model_(LoadModel()),
        decode_model_(LoadModel()),
        own_model_(LoadModel()),
        decode_(decode_model_.get()),
        tap_(decode_.endpoint()) {}

  static std::unique_ptr<Model> LoadModel() { return LoadTestModel(std::get<0>(GetParam()), std::get<1>(GetParam())); }

  std::unique_ptr<TestPrefillWorker> MakePrefill(int64_t step_tokens) {
    TestWorkerOptions options;
    options.engine.step_tokens = step_tokens;
    options.memory = int64_t{1} << 30;
    return std::make_unique<TestPrefillWorker>(prefill_model_.get(), options);
  }

  // One of several ways to sample.
  PrefillRequest MakeRequest(int64_t prompt_tokens, int new_tokens, int way, uint64_t seed) const {
    PrefillRequest request;
    request.set_request_id(absl::StrCat("parity-", seed));
    request.set_fingerprint(own_model_->fingerprint().ToBytes());
    const std::vector<int32_t> prompt = RandomPrompt(*own_model_, prompt_tokens, seed);
    request.mutable_tokens()->Add(prompt.begin(), prompt.end());
    request.set_logprobs(true);
    request.set_top_logprobs(2);
    request.mutable_stopping()->set_max_new_tokens(new_tokens);
    worker::v1::Sampling& sampling = *request.mutable_sampling();
    sampling.set_top_p(1);
    sampling.set_typical_p(1);
    sampling.set_repetition_penalty(1);
    sampling.set_seed(seed);
    switch (way % 4) {
      case 0:  // greedy
        break;
      case 1:
        sampling.set_temperature(0.8f);
        sampling.set_top_p(0.9f);
        break;
      case 2:
        sampling.set_temperature(1.2f);
        sampling.set_top_k(40);
        sampling.set_repetition_penalty(1.3f);
        sampling.set_presence_penalty(0.5f);
        sampling.set_frequency_penalty(0.3f);
        break;
      default:
        sampling.set_temperature(1);
        sampling.set_min_p(0.01f);
        sampling.set_typical_p(0.9f);
        (*sampling.mutable_logit_bias())[7] = 2;
        sampling.set_frequency_penalty(1);
    }
    return request;
  }

  // Through the tap, which knows the state that passed; or directly, as shared memory needs.
  Generation RunSeparated(TestPrefillWorker& prefill, PrefillRequest request, bool tapped = true) {
    Generation out;
    worker::v1::DecodeRequest decode_request;
    decode_request.set_request_id(request.request_id());
    decode_request.set_fingerprint(request.fingerprint());
    *decode_request.mutable_tokens() = request.tokens();
    decode_request.set_generated_tokens(request.generated_tokens());
    *decode_request.mutable_sampling() = request.sampling();
    *decode_request.mutable_stopping() = request.stopping();
    decode_request.set_logprobs(request.logprobs());
    decode_request.set_top_logprobs(request.top_logprobs());

    grpc::ClientContext decode_context;
    const auto decode_stream = decode_.stub()->Run(&decode_context, decode_request);
    worker::v1::DecodeEvent event;
    if (!decode_stream->Read(&event) || !event.has_reservation()) {
      out.error = absl::StrCat("no reservation: ", decode_stream->Finish().error_message());
      return out;
    }
    const worker::v1::Reservation reservation = event.reservation();
    request.mutable_handoff()->set_endpoint(tapped ? tap_.endpoint() : decode_.endpoint());
    request.mutable_handoff()->set_boot_id(reservation.boot_id());
    request.mutable_handoff()->set_reservation_id(reservation.reservation_id());
    request.mutable_handoff()->set_generation(reservation.generation());

    const PrefillResult prefilled = prefill.Run(request);
    if (!prefilled.status.ok() || !prefilled.first_token.has_value()) {
      out.error = absl::StrCat("prefill: ", prefilled.status.error_message());
      decode_context.TryCancel();
      return out;
    }
    out.tokens.push_back(prefilled.first_token->id());
    out.logprobs.push_back(prefilled.first_token->logprobs().logprob());
    if (prefilled.first_token->has_done()) {
      out.reason = prefilled.first_token->done();
      decode_context.TryCancel();
      while (decode_stream->Read(&event)) {
      }
      decode_stream->Finish();
      return out;
    }
    if (tapped)
      out.state = ReceivedState(tap_.Take(reservation.reservation_id(), reservation.generation()), request, &out.error);

    int64_t position = request.tokens_size() + 1;
    while (decode_stream->Read(&event)) {
      for (const worker::v1::TokenChunk& chunk : event.progress().tokens()) {
        if (chunk.position() != position) out.error = "positions have a gap";
        position += chunk.ids_size();
        for (int i = 0; i < chunk.ids_size(); ++i) {
          out.tokens.push_back(chunk.ids(i));
          out.logprobs.push_back(chunk.logprobs(i).logprob());
        }
      }
      for (const worker::v1::SampleDone& done : event.progress().done()) out.reason = done.reason();
    }
    const grpc::Status status = decode_stream->Finish();
    if (!status.ok()) out.error = absl::StrCat("decode: ", status.error_message());
    return out;
  }

  std::string ReceivedState(const std::string& bytes, const PrefillRequest& request, std::string* error) const {
    MemoryBudget budget(int64_t{1} << 30);
    const int64_t capacity = request.tokens_size() + request.stopping().max_new_tokens();
    absl::StatusOr<SequenceState> state = SequenceState::Create(own_model_->MakeStateLayout(1), budget, capacity);
    BATON_CHECK(state.ok());
    StateReader reader(own_model_->fingerprint(), &*state);
    const absl::Status status = reader.Feed(bytes);
    if (!status.ok() || !reader.committed()) {
      *error = absl::StrCat("the state did not arrive: ", status.ToString());
      return "";
    }
    return VisibleState(*state);
  }

  // One sequence, one plain loop.
  Generation RunInProcess(const PrefillRequest& request) {
    Generation out;
    const std::vector<int32_t> prompt(request.tokens().begin(), request.tokens().end());
    const SamplingParams params = FromProto(request.sampling());
    const int max_new = request.stopping().max_new_tokens();
    const std::vector<int32_t> stops(request.stopping().stop_token_ids().begin(),
                                     request.stopping().stop_token_ids().end());
    TokenHistory history;
    const size_t given = prompt.size() - static_cast<size_t>(request.generated_tokens());
    history.AddPrompt(absl::MakeSpan(prompt).subspan(0, given));
    for (size_t i = given; i < prompt.size(); ++i) history.AddOutput(prompt[i]);

    MemoryBudget budget(int64_t{1} << 30);
    absl::StatusOr<SequenceState> state =
        SequenceState::Create(own_model_->MakeStateLayout(100), budget, static_cast<int64_t>(prompt.size()) + max_new);
    BATON_CHECK(state.ok());
    std::vector<float> logits = RunTokens(*own_model_, *state, prompt, prompt.size() - 1);
    const std::string state_after_prompt = VisibleState(*state);
    Sampler sampler;
    for (int generated = request.generated_tokens();; ++generated) {
      const absl::Span<const int32_t> masked =
          generated < request.stopping().min_new_tokens() ? absl::MakeSpan(stops) : absl::Span<const int32_t>();
      const int32_t token = sampler.Sample(logits, params, history, masked, state->position());
      out.tokens.push_back(token);
      out.logprobs.push_back(ComputeLogprob(logits, token, 0).logprob);
      history.AddOutput(token);
      if (std::find(stops.begin(), stops.end(), token) != stops.end()) {
        out.reason = worker::v1::STOP_TOKEN;
        break;
      }
      if (generated + 1 == max_new) {
        out.reason = worker::v1::LENGTH;
        break;
      }
      logits = RunTokens(*own_model_, *state, {&token, 1}, 0);
    }
    if (out.tokens.size() > 1) out.state = state_after_prompt;
    return out;
  }

  static void ExpectEqual(const Generation& separated, const Generation& in_process, const std::string& what) {
    ASSERT_EQ(separated.error, "") << what;
    EXPECT_EQ(separated.tokens, in_process.tokens) << what;
    EXPECT_EQ(separated.logprobs, in_process.logprobs) << what;
    EXPECT_EQ(separated.reason, in_process.reason) << what;
    EXPECT_TRUE(separated.state == in_process.state) << what << ": the states differ";
  }

  bool DecodeBecomesIdle() {
    return Eventually([&] { return decode_.budget().used() == 0; });
  }

  const std::unique_ptr<Model> prefill_model_;
  const std::unique_ptr<Model> decode_model_;
  const std::unique_ptr<Model> own_model_;
  TestDecodeWorker decode_;
  StateTap tap_;
};

// The windows are 64 wide (Gemma 2), 65 (RecurrentGemma); pages hold 64 tokens.
constexpr int64_t kLengths[] = {1, 2, 17, 63, 64, 65, 66, 127, 128, 129, 200, 700};

TEST_P(ParityTest, EveryLengthAloneInAnyChunks) {
  for (int64_t step_tokens : {5, 64, 512}) {
    const std::unique_ptr<TestPrefillWorker> prefill = MakePrefill(step_tokens);
    int way = 0;
    for (int64_t length : kLengths) {
      const PrefillRequest request = MakeRequest(length, 6, way++, static_cast<uint64_t>(length));
      ExpectEqual(RunSeparated(*prefill, request), RunInProcess(request),
                  absl::StrCat(length, " tokens in chunks of ", step_tokens));
    }
    EXPECT_TRUE(prefill->BecomesIdle());
    EXPECT_TRUE(DecodeBecomesIdle());
  }
}

TEST_P(ParityTest, AllTogetherInOneBatch) {
  for (int64_t step_tokens : {16, 256}) {
    const std::unique_ptr<TestPrefillWorker> prefill = MakePrefill(step_tokens);
    constexpr size_t kRequests = std::size(kLengths);
    std::vector<Generation> separated(kRequests);
    std::vector<std::thread> clients;
    for (size_t i = 0; i < kRequests; ++i) {
      clients.emplace_back([&, i] {
        separated[i] =
            RunSeparated(*prefill, MakeRequest(kLengths[i], 10 + static_cast<int>(i), static_cast<int>(i), 50 + i));
      });
    }
    for (std::thread& client : clients) client.join();
    for (size_t i = 0; i < kRequests; ++i) {
      const PrefillRequest request = MakeRequest(kLengths[i], 10 + static_cast<int>(i), static_cast<int>(i), 50 + i);
      ExpectEqual(separated[i], RunInProcess(request), absl::StrCat(kLengths[i], " tokens among others"));
    }
    EXPECT_TRUE(prefill->BecomesIdle());
    EXPECT_TRUE(DecodeBecomesIdle());
  }
}

// The output crosses the window and page boundaries during decode.
TEST_P(ParityTest, LongOutputs) {
  const std::unique_ptr<TestPrefillWorker> prefill = MakePrefill(64);
  for (int way = 0; way < 4; ++way) {
    const PrefillRequest request = MakeRequest(40 + 30 * way, 120, way, 7 + way);
    ExpectEqual(RunSeparated(*prefill, request), RunInProcess(request), absl::StrCat("way of sampling ", way));
  }
}

TEST_P(ParityTest, StopTokens) {
  const std::unique_ptr<TestPrefillWorker> prefill = MakePrefill(64);
  PrefillRequest request = MakeRequest(90, 30, 1, 3);
  const Generation whole = RunInProcess(request);
  // Stops at the first token, at a later one, and, with a minimum, not before it.
  for (size_t stop_at : {size_t{0}, size_t{5}}) {
    for (int min_new_tokens : {0, 10}) {
      request.mutable_stopping()->clear_stop_token_ids();
      request.mutable_stopping()->add_stop_token_ids(whole.tokens[stop_at]);
      request.mutable_stopping()->set_min_new_tokens(min_new_tokens);
      const Generation in_process = RunInProcess(request);
      EXPECT_GE(static_cast<int>(in_process.tokens.size()), min_new_tokens);
      ExpectEqual(RunSeparated(*prefill, request), in_process,
                  absl::StrCat("stop at ", stop_at, ", at least ", min_new_tokens));
    }
  }
  EXPECT_TRUE(prefill->BecomesIdle());
  EXPECT_TRUE(DecodeBecomesIdle());
}

// A request that another pair of workers takes over after some tokens goes on as if nothing had happened.
TEST_P(ParityTest, TakenOverAfterSomeTokens) {
  const std::unique_ptr<TestPrefillWorker> prefill = MakePrefill(48);
  for (int way = 0; way < 4; ++way) {
    PrefillRequest request = MakeRequest(75, 24, way, 11 + way);
    const Generation whole = RunSeparated(*prefill, request);
    ASSERT_EQ(whole.error, "");
    ASSERT_EQ(whole.tokens.size(), 24u);
    constexpr int kBefore = 9;
    for (int i = 0; i < kBefore; ++i) request.add_tokens(whole.tokens[i]);
    request.set_generated_tokens(kBefore);
    const Generation rest = RunSeparated(*prefill, request);
    ASSERT_EQ(rest.error, "");
    EXPECT_EQ(rest.tokens, std::vector<int32_t>(whole.tokens.begin() + kBefore, whole.tokens.end()));
    EXPECT_EQ(rest.logprobs, std::vector<float>(whole.logprobs.begin() + kBefore, whole.logprobs.end()));
    EXPECT_EQ(rest.reason, whole.reason);
  }
}

// Both workers are in one process here; those of two are tested end to end.
TEST_P(ParityTest, ThroughSharedMemory) {
  // Room for all, for some messages, and for none of the larger ones: what does not fit travels in the messages.
  for (int64_t credit : {int64_t{32} << 20, int64_t{192} << 10, int64_t{8} << 10}) {
    TestWorkerOptions options;
    options.engine.step_tokens = 64;
    options.engine.handoff.transport = HandoffTransport::kShm;
    options.engine.handoff.credit_bytes = credit;
    options.memory = int64_t{1} << 30;
    TestPrefillWorker prefill(prefill_model_.get(), options);
    std::vector<Generation> separated(4);
    std::vector<std::thread> clients;
    const auto request = [&](size_t i) { return MakeRequest(500 + 97 * static_cast<int64_t>(i), 8, 0, 80 + i); };
    for (size_t i = 0; i < separated.size(); ++i) {
      clients.emplace_back([&, i] { separated[i] = RunSeparated(prefill, request(i), /*tapped=*/false); });
    }
    for (std::thread& client : clients) client.join();
    for (size_t i = 0; i < separated.size(); ++i) {
      Generation in_process = RunInProcess(request(i));
      in_process.state.clear();
      ExpectEqual(separated[i], in_process, absl::StrCat("request ", i, ", credit ", credit));
    }
    EXPECT_TRUE(prefill.BecomesIdle());
    EXPECT_TRUE(DecodeBecomesIdle());
    const double shared = prefill.MetricSum("baton_handoff_shared_bytes_total");
    EXPECT_LE(shared, prefill.MetricSum("baton_handoff_bytes_total"));
    EXPECT_TRUE(shared > 0 || credit < 1 << 20);
  }
}

std::string CaseName(const ::testing::TestParamInfo<ParityCase>& info) {
  std::string name = absl::StrCat(std::get<0>(info.param), "_", WeightPrecisionName(std::get<1>(info.param)));
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Families, ParityTest,
                         ::testing::Combine(::testing::Values(kTinyGemma, kTinyGemma2, kTinyRecurrentGemma),
                                            ::testing::Values(WeightPrecision::kBf16)),
                         CaseName);
// Where the kernels differ.
INSTANTIATE_TEST_SUITE_P(Precisions, ParityTest,
                         ::testing::Combine(::testing::Values(kTinyGemma2, kTinyRecurrentGemma),
                                            ::testing::Values(WeightPrecision::kInt8, WeightPrecision::kInt4,
                                                              WeightPrecision::kInt8A8)),
                         CaseName);
}  // namespace
}  // namespace baton
