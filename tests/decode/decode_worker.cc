#include "tests/decode/decode_worker.h"

#include <algorithm>
#include <map>
#include <random>
#include <utility>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_mapping.h"
#include "common/rpc/worker_request.h"
#include "common/sampling/sampler.h"
#include "common/state/state_codec.h"
#include "gtest/gtest.h"
#include "tests/metric_sum.h"

namespace baton {
namespace {

using worker::v1::Decode;
using worker::v1::DecodeEvent;
using worker::v1::DecodeRequest;
using worker::v1::StateChunk;

constexpr size_t kMessageBytes = 4096;
constexpr int kPrefillChunk = 37;

std::unique_ptr<Model> LoadBundled(const std::string& name) {
  ModelOptions options;
  options.threads = 2;
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(std::string(BATON_BUNDLED_MODELS) + "/" + name, options);
  if (!model.ok()) std::fprintf(stderr, "%s\n", model.status().ToString().c_str());
  BATON_CHECK(model.ok());
  return *std::move(model);
}

Model& Loaded(std::map<std::string, std::unique_ptr<Model>>& models, const std::string& name) {
  std::unique_ptr<Model>& model = models[name];
  if (model == nullptr) model = LoadBundled(name);
  return *model;
}

// The workers' own log lines would bury a failure's.
class QuietLog : public testing::Environment {
 public:
  void SetUp() override {
    LogOptions options;
    options.minimum = Severity::kError;
    ConfigureLog(options);
  }
};
[[maybe_unused]] const testing::Environment* const quiet_log = testing::AddGlobalTestEnvironment(new QuietLog);

DecodeServiceOptions ServiceOptions(const DecodeWorkerOptions& options) {
  DecodeServiceOptions out;
  out.model_name = options.model;
  out.boot_id = NewBootId();
  out.max_tokens = 2048;
  out.engine = options.engine;
  out.sessions = options.sessions;
  out.checkpoints = options.checkpoints;
  return out;
}

}  // namespace

Model& WorkerModel(const std::string& name, int worker) {
  static auto* models = new std::map<int, std::map<std::string, std::unique_ptr<Model>>>;
  return Loaded((*models)[worker], name);
}

Model& LoopModel(const std::string& name) {
  static auto* models = new std::map<std::string, std::unique_ptr<Model>>;
  return Loaded(*models, name);
}

std::vector<int32_t> RandomPrompt(int count, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<int32_t> prompt = {2};
  while (static_cast<int>(prompt.size()) < count) prompt.push_back(300 + static_cast<int32_t>(random() % 1700));
  return prompt;
}

DecodeRequest MakeRequest(const Model& model, const std::vector<int32_t>& prompt, int max_new_tokens) {
  DecodeRequest request;
  request.set_request_id("test");
  request.set_fingerprint(model.fingerprint().ToBytes());
  request.mutable_tokens()->Add(prompt.begin(), prompt.end());
  worker::v1::Sampling* sampling = request.mutable_sampling();
  sampling->set_top_p(1);
  sampling->set_typical_p(1);
  sampling->set_repetition_penalty(1);
  request.mutable_stopping()->set_max_new_tokens(max_new_tokens);
  return request;
}

Expectation RunPlainLoop(const std::string& model_name, const DecodeRequest& proto,
                         const std::vector<FirstTokenRecord>& handed_over) {
  Model& model = LoopModel(model_name);
  RequestLimits limits;
  limits.fingerprint = model.fingerprint();
  limits.vocab_size = model.config().vocab_size;
  limits.max_tokens = 1 << 20;
  const SequenceRequest request = CheckRequest(proto, limits).value();
  Expectation out;
  out.request = proto;

  MemoryBudget budget(int64_t{1} << 30);
  const std::shared_ptr<const StateLayout> layout = model.MakeStateLayout(kPrefillChunk);
  SequenceState state = SequenceState::Create(layout, budget, request.total_tokens()).value();
  const int64_t prompt_tokens = static_cast<int64_t>(request.tokens.size());
  StateWriter writer(model.fingerprint(), *layout, prompt_tokens, KvEncoding::kExact,
                     std::max<size_t>(1, handed_over.size()));
  std::string wire;
  writer.AppendHeader(&wire);
  std::vector<float> logits(static_cast<size_t>(limits.vocab_size));
  const absl::Span<const int32_t> tokens(request.tokens);
  for (int64_t begin = 0; begin < prompt_tokens; begin += kPrefillChunk) {
    const absl::Span<const int32_t> chunk = tokens.subspan(static_cast<size_t>(begin), kPrefillChunk);
    const bool last = begin + kPrefillChunk >= prompt_tokens;
    const SequenceRun run = {&state, chunk, last ? chunk.size() - 1 : chunk.size()};
    model.Forward({&run, 1}, last ? absl::MakeSpan(logits) : absl::Span<float>());
    writer.AppendPieces(state, &wire);
  }

  Sampler sampler;
  TokenHistory history = request.MakeHistory();
  int64_t generated = request.generated_tokens;
  const auto sample = [&] {
    const int32_t token =
        sampler.Sample(logits, request.sampling, history, request.MaskedIds(generated), state.position());
    history.AddOutput(token);
    ++generated;
    return token;
  };
  out.first_token = sample();
  BATON_CHECK(!request.IsStop(out.first_token));
  if (handed_over.empty()) {
    writer.AppendCommit(MakeFirstTokenRecord(out.first_token), &wire);
  } else {
    writer.AppendCommit(handed_over, &wire);
  }
  for (absl::string_view rest = wire; !rest.empty();) {
    const size_t size = WholeStateFrames(rest, kMessageBytes);
    out.messages.emplace_back(rest.substr(0, size));
    rest.remove_prefix(size);
  }

  for (int32_t token = out.first_token; generated < request.max_new_tokens;) {
    const SequenceRun run = {&state, {&token, 1}, 0};
    model.Forward({&run, 1}, absl::MakeSpan(logits));
    token = sample();
    out.tokens.push_back(token);
    if (request.logprobs) {
      ToProto(ComputeLogprob(logits, token, request.top_logprobs), &out.logprobs.emplace_back());
    }
    if (request.IsStop(token)) {
      out.reason = worker::v1::STOP_TOKEN;
      break;
    }
  }
  return out;
}

RunStream::RunStream(Decode::Stub& stub, const DecodeRequest& request, absl::Duration timeout) {
  if (timeout < absl::InfiniteDuration()) context_.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  reader_ = stub.Run(&context_, request);
}

RunStream::~RunStream() {
  if (finished_) return;
  Cancel();
  End();
}

absl::optional<worker::v1::Reservation> RunStream::Reserve() {
  absl::optional<DecodeEvent> event = Next();
  if (!event.has_value()) return absl::nullopt;
  EXPECT_TRUE(event->has_reservation());
  return event->reservation();
}

absl::optional<DecodeEvent> RunStream::Next() {
  DecodeEvent event;
  if (!reader_->Read(&event)) return absl::nullopt;
  return event;
}

RunStream::Result RunStream::End() {
  Result result;
  std::map<int, int64_t> next_positions;
  while (absl::optional<DecodeEvent> event = Next()) {
    if (event->has_first_token()) {
      EXPECT_FALSE(result.first.has_value());
      EXPECT_TRUE(result.samples.empty()) << "the first token comes first";
      result.first = event->first_token();
    }
    for (const worker::v1::TokenChunk& chunk : event->progress().tokens()) {
      SampleResult& sample = result.samples[chunk.sample()];
      EXPECT_TRUE(chunk.ids_size() > 0);
      EXPECT_FALSE(sample.reason.has_value()) << "tokens after the end";
      const auto next = next_positions.find(chunk.sample());
      EXPECT_TRUE(next == next_positions.end() || chunk.position() == next->second);
      next_positions[chunk.sample()] = chunk.position() + chunk.ids_size();
      sample.tokens.insert(sample.tokens.end(), chunk.ids().begin(), chunk.ids().end());
      sample.logprobs.insert(sample.logprobs.end(), chunk.logprobs().begin(), chunk.logprobs().end());
    }
    for (const worker::v1::SampleDone& done : event->progress().done()) {
      SampleResult& sample = result.samples[done.sample()];
      EXPECT_FALSE(sample.reason.has_value());
      sample.reason = done.reason();
    }
  }
  static_cast<SampleResult&>(result) = result.samples[0];
  result.status = FromGrpcStatus(reader_->Finish());
  finished_ = true;
  return result;
}

Sender::Sender(Decode::Stub& stub) : stream_(stub.Receive(&context_)) {}

Sender::~Sender() {
  if (finished_) return;
  Cancel();
  stream_->Finish();
}

bool Sender::Send(const worker::v1::Reservation& reservation, const std::string& data) {
  StateChunk chunk;
  chunk.set_reservation_id(reservation.reservation_id());
  chunk.set_generation(reservation.generation());
  chunk.set_boot_id(reservation.boot_id());
  chunk.set_data(data);
  return stream_->Write(chunk);
}

absl::Status Sender::End() {
  stream_->WritesDone();
  return Wait();
}

absl::Status Sender::Wait() {
  finished_ = true;
  worker::v1::ReceiveResponse answer;
  while (stream_->Read(&answer)) response_ = answer;
  return FromGrpcStatus(stream_->Finish());
}

absl::Status HandOver(Decode::Stub& stub, const worker::v1::Reservation& reservation,
                      const std::vector<std::string>& messages) {
  Sender sender(stub);
  for (const std::string& message : messages) {
    if (!sender.Send(reservation, message)) break;
  }
  return sender.End();
}

DecodeWorker::DecodeWorker(const DecodeWorkerOptions& options)
    : keeps_sessions_(options.sessions.ttl > absl::ZeroDuration()),
      budget_(options.memory),
      metrics_("decode"),
      load_(&budget_),
      service_(&WorkerModel(options.model, options.number), ServiceOptions(options), &budget_, &metrics_, &load_,
               &gate_),
      server_({.listen = "127.0.0.1:0"}) {
  server_.AddService(&service_);
  const absl::Status started = server_.Start();
  BATON_CHECK(started.ok());
  service_.SetEndpoint(server_.address());
  server_.SetServing(true);
  stub_ = NewStub();
}

DecodeWorker::~DecodeWorker() {
  server_.Stop(absl::ZeroDuration());
  service_.Stop();
  if (!keeps_sessions_) {
    EXPECT_EQ(budget_.used(), 0);
  }
  EXPECT_EQ(gate_.inside(), 0);
}

std::unique_ptr<Decode::Stub> DecodeWorker::NewStub() { return Decode::NewStub(NewChannel(server_.address())); }

double DecodeWorker::Metric(const std::string& name, const std::string& label_value) const {
  return MetricSum(metrics_, name, /*label=*/"", label_value);
}

void WaitUntil(const std::function<bool()>& condition) {
  const absl::Time deadline = absl::Now() + absl::Seconds(120);
  while (!condition()) {
    ASSERT_LT(absl::Now(), deadline) << "what the test waits for does not happen";
    absl::SleepFor(absl::Milliseconds(1));
  }
}

void ExpectNothingHeld(DecodeWorker& worker) {
  WaitUntil([&] { return worker.budget().used() == 0 && worker.gate().inside() == 0; });
  WaitUntil([&] {
    return worker.Metric("baton_requests_waiting") == 0 && worker.Metric("baton_requests_running") == 0 &&
           worker.Metric("baton_state_bytes_used") == 0;
  });
  const worker::v1::Load load = worker.load().Snapshot();
  EXPECT_EQ(load.queued(), 0);
  EXPECT_EQ(load.running(), 0);
}

}  // namespace baton
