// bench_handoff: what handing a state from a prefill to a decode worker costs.
//
//   bench_handoff --model /data/gemma-2-2b --prompt 512,2048 --engine-prompt 2048
//
// Three tables. Bytes on the wire for each prompt length, beside what the formulas of the model's shape say. Transport
// alone (a filled state from memory to memory through Decode.Receive: gRPC, shared memory, int8): time, and CPU of both
// ends together. And the whole: time to the first token with separated workers beside the same chunks in one loop, and
// how long the handoff went on after the last chunk; the ratio of CPU times is the steadier one on a machine that
// others use. Both workers live in this process, each behind its own server on loopback, and share the weights.
#include <sys/resource.h>

#include <algorithm>
#include <cstdio>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>
#include <CLI/CLI.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "bench/command_line.h"
#include "bench/engine_report.h"
#include "bench/machine_limits.h"
#include "bench/median.h"
#include "bench/worker_pair.h"
#include "common/base/bytes.h"
#include "common/base/cpu.h"
#include "common/base/status_macros.h"
#include "common/base/version.h"
#include "common/model/model.h"
#include "common/observe/log.h"
#include "common/rpc/channel.h"
#include "common/rpc/engine_flags.h"
#include "common/sampling/sampler.h"
#include "decode/decode_service.h"
#include "prefill/prefill_engine.h"
#include "prefill/prefill_service.h"

namespace baton {
namespace {

struct Flags {
  std::string directory;
  EngineFlags engine;
  std::string cpus;
  std::vector<int> prompts = {512, 2048, 8192};
  std::vector<int> engine_prompts = {2048};
  int chunk_tokens = 512;
  int repeats = 5;
  int engine_repeats = 1;
  std::vector<std::string> engine_transports = {"grpc", "shm"};
};

double CpuSeconds() {
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + 1e-6 * static_cast<double>(time.tv_usec);
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

// What a decoder at position n needs, by the model's shape: 2 kv_heads head_dim elements for each position that a layer
// still shows, in int8 one byte each and 2 for the scale of each (position, head, K or V); and a float32 vector and
// three (conv_width - 1) inputs of each recurrent layer.
int64_t FormulaBytes(const ModelConfig& config, const StateLayout& layout, int64_t tokens, KvEncoding encoding) {
  const int64_t element = ElementBytes(layout.element);
  int64_t bytes = 0;
  for (size_t i = 0; i < layout.layers.size(); ++i) {
    const LayerStateSpec& spec = layout.layers[i];
    if (spec.kind == LayerStateSpec::Kind::kRecurrent) {
      bytes += 4 * config.lru_width + (config.conv_width - 1) * config.lru_width * element;
      continue;
    }
    int64_t positions = tokens;
    if (spec.kind == LayerStateSpec::Kind::kWindowKv) positions = std::min(tokens, spec.visible_keys - 1);
    const int64_t row = encoding == KvEncoding::kInt8 ? config.head_dim + 2 : config.head_dim * element;
    bytes += positions * 2 * config.num_kv_heads * row;
  }
  return bytes;
}

std::vector<int32_t> Prompt(const Model& model, int64_t tokens) {
  std::vector<int32_t> prompt;
  for (int64_t i = 0; i < tokens; ++i)
    prompt.push_back(static_cast<int32_t>((i * 7919 + 11) % model.config().vocab_size));
  return prompt;
}

// Greedy.
template <typename Request>
Request MakeRequest(const Model& model, const std::vector<int32_t>& prompt, int new_tokens) {
  Request request;
  request.set_request_id("bench");
  request.set_fingerprint(model.fingerprint().ToBytes());
  request.mutable_tokens()->Add(prompt.begin(), prompt.end());
  request.mutable_sampling()->set_top_p(1);
  request.mutable_sampling()->set_typical_p(1);
  request.mutable_sampling()->set_repetition_penalty(1);
  request.mutable_stopping()->set_max_new_tokens(new_tokens);
  return request;
}

// A Decode.Run call with its reservation, cancelled at the end.
class Reserved {
 public:
  Reserved(worker::v1::Decode::Stub& stub, const worker::v1::DecodeRequest& request)
      : stream_(stub.Run(&context_, request)) {}
  ~Reserved() {
    context_.TryCancel();
    worker::v1::DecodeEvent event;
    while (stream_->Read(&event)) {
    }
    stream_->Finish();
  }
  absl::StatusOr<worker::v1::Handoff> Target() {
    worker::v1::DecodeEvent event;
    if (!stream_->Read(&event) || !event.has_reservation()) return absl::UnavailableError("no reservation");
    worker::v1::Handoff target;
    target.set_endpoint(event.reservation().endpoint());
    target.set_boot_id(event.reservation().boot_id());
    target.set_reservation_id(event.reservation().reservation_id());
    target.set_generation(event.reservation().generation());
    return target;
  }
  // Until tokens come.
  absl::Status WaitForTokens() {
    worker::v1::DecodeEvent event;
    while (stream_->Read(&event)) {
      if (!event.progress().tokens().empty()) return absl::OkStatus();
    }
    return absl::UnavailableError("the decode worker gave no tokens");
  }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<worker::v1::DecodeEvent>> stream_;
};

// A state as after a prompt of `tokens`, with arbitrary contents.
absl::StatusOr<std::shared_ptr<SequenceState>> FilledState(const Model& model, MemoryBudget& budget, int64_t tokens,
                                                           int chunk_tokens) {
  BATON_ASSIGN_OR_RETURN(SequenceState made,
                         SequenceState::Create(model.MakeStateLayout(chunk_tokens), budget, tokens));
  auto state = std::make_shared<SequenceState>(std::move(made));
  const StateLayout& layout = state->layout();
  uint64_t random = 1;
  for (int64_t begin = 0; begin < tokens; begin += chunk_tokens) {
    const int64_t count = std::min<int64_t>(chunk_tokens, tokens - begin);
    for (int layer = 0; layer < static_cast<int>(layout.layers.size()); ++layer) {
      const LayerStateSpec& spec = layout.layers[layer];
      if (spec.kind == LayerStateSpec::Kind::kRecurrent) continue;
      std::vector<float> row(static_cast<size_t>(spec.kv_heads * spec.head_dim));
      for (int64_t position = begin; position < begin + count; ++position) {
        for (float& x : row) {
          random = random * 6364136223846793005ull + 1442695040888963407ull;
          x = static_cast<float>(static_cast<int32_t>(random >> 33)) * 1e-9f;
        }
        state->WriteKv(layer, position, row, row);
      }
    }
    state->Advance(count);
  }
  return state;
}

struct Transfer {
  int64_t bytes = 0;
  int64_t shared_bytes = 0;
  double seconds = 0;
  double cpu_seconds = 0;
};

// The whole path but for computing. The commit's token already ends the sequence, which the receiver finds out after
// everything has been verified: so nothing is decoded, and nothing else is measured.
absl::StatusOr<Transfer> TransferOnce(WorkerPair& pair, const Model& model, const std::shared_ptr<DecodePeer>& peer,
                                      const std::shared_ptr<SequenceState>& state, const HandoffOptions& handoff) {
  const int64_t tokens = state->position();
  Reserved reserved(pair.decode(), MakeRequest<worker::v1::DecodeRequest>(model, Prompt(model, tokens), 1));
  BATON_ASSIGN_OR_RETURN(const worker::v1::Handoff target, reserved.Target());
  const double cpu = CpuSeconds();
  const absl::Time start = absl::Now();
  auto over = std::make_shared<absl::Notification>();
  HandoffSenderOptions options;
  options.encoding = handoff.encoding;
  options.offer_shared_memory = handoff.transport != HandoffTransport::kGrpc;
  const auto layout = std::make_shared<const StateLayout>(state->layout());
  const std::shared_ptr<HandoffSender> sender = HandoffSender::Start(
      peer, HeadOf(target), {model.fingerprint(), layout, tokens, state}, options, [over] { over->Notify(); });
  StateCutter cutter(*layout, tokens);
  std::vector<StatePiece> pieces;
  cutter.AllLayersDone(*state, &pieces);
  sender->Send(std::move(pieces));
  sender->Commit({{.id = 1}});
  over->WaitForNotification();
  Transfer transfer;
  transfer.seconds = absl::ToDoubleSeconds(absl::Now() - start);
  transfer.cpu_seconds = CpuSeconds() - cpu;
  const HandoffOutcome outcome = sender->outcome();
  if (!absl::IsInvalidArgument(outcome.status)) return outcome.status;
  transfer.bytes = outcome.bytes;
  transfer.shared_bytes = outcome.shared_bytes;
  return transfer;
}

struct Transport {
  const char* name;
  HandoffOptions handoff;
};

absl::Status MeasureTransport(Model& model, Model& decode_model, const Flags& flags, int64_t memory) {
  std::printf("\n%8s  %-10s %14s %14s %8s %10s %10s %12s %8s\n", "prompt", "transport", "state bytes", "wire bytes",
              "over", "ms", "GB/s", "CPU s/GB", "shared");
  std::vector<Transport> transports(3);
  transports[0].name = "grpc";
  transports[0].handoff.transport = HandoffTransport::kGrpc;
  transports[1].name = "shm";
  transports[1].handoff.transport = HandoffTransport::kShm;
  transports[2].name = "grpc int8";
  transports[2].handoff.transport = HandoffTransport::kGrpc;
  transports[2].handoff.encoding = KvEncoding::kInt8;
  for (int tokens : flags.prompts) {
    WorkerPair pair(&model, &decode_model, {}, flags.chunk_tokens, memory);
    BATON_RETURN_IF_ERROR(pair.Start());
    BATON_ASSIGN_OR_RETURN(const std::shared_ptr<SequenceState> state,
                           FilledState(model, pair.budget(), tokens, flags.chunk_tokens));
    for (const Transport& transport : transports) {
      // As a prefill worker keeps it for a pair.
      const auto peer =
          std::make_shared<DecodePeer>(NewChannel(pair.decode_endpoint()), transport.handoff.credit_bytes);
      std::vector<double> seconds;
      std::vector<double> cpu;
      Transfer last;
      // The first one makes the connection and touches memory.
      for (int i = 0; i <= flags.repeats; ++i) {
        BATON_ASSIGN_OR_RETURN(last, TransferOnce(pair, model, peer, state, transport.handoff));
        if (i == 0) continue;
        seconds.push_back(last.seconds);
        cpu.push_back(last.cpu_seconds);
      }
      const int64_t formula = FormulaBytes(model.config(), state->layout(), tokens, transport.handoff.encoding);
      const auto bytes = static_cast<double>(last.bytes);
      std::printf("%8d  %-10s %14lld %14lld %7.3f%% %10.2f %10.2f %12.3f %7.0f%%\n", tokens, transport.name,
                  static_cast<long long>(formula), static_cast<long long>(last.bytes),
                  100 * (bytes / static_cast<double>(formula) - 1), 1e3 * Median(seconds),
                  bytes / Median(seconds) / 1e9, Median(cpu) / bytes * 1e9,
                  100 * static_cast<double>(last.shared_bytes) / bytes);
      std::fflush(stdout);
    }
  }
  return absl::OkStatus();
}

// The same chunks in one loop: seconds to the first token.
absl::StatusOr<double> InProcess(Model& model, const std::vector<int32_t>& prompt, int chunk_tokens, int64_t memory) {
  MemoryBudget budget(memory);
  const absl::Time start = absl::Now();
  BATON_ASSIGN_OR_RETURN(SequenceState state, SequenceState::Create(model.MakeStateLayout(chunk_tokens), budget,
                                                                    static_cast<int64_t>(prompt.size()) + 8));
  std::vector<float> logits(model.config().vocab_size);
  for (size_t at = 0; at < prompt.size();) {
    const size_t count = std::min<size_t>(chunk_tokens, prompt.size() - at);
    const bool last = at + count == prompt.size();
    const SequenceRun run = {&state, absl::MakeConstSpan(prompt).subspan(at, count), last ? count - 1 : count};
    model.Forward({&run, 1}, last ? absl::MakeSpan(logits) : absl::Span<float>());
    at += count;
  }
  Sampler sampler;
  sampler.Sample(logits, SamplingParams{}, TokenHistory{}, {}, static_cast<int64_t>(prompt.size()));
  return absl::ToDoubleSeconds(absl::Now() - start);
}

struct Separated {
  double first_token = 0;   // seconds from the request on
  double cpu = 0;           // seconds of both workers' threads until then
  double second_token = 0;  // which the decode worker gives
  worker::v1::PrefillDone done;
};

absl::StatusOr<Separated> RunSeparated(WorkerPair& pair, const Model& model, const std::vector<int32_t>& prompt) {
  Separated result;
  const double cpu = CpuSeconds();
  const absl::Time start = absl::Now();
  Reserved reserved(pair.decode(), MakeRequest<worker::v1::DecodeRequest>(model, prompt, 4));
  auto request = MakeRequest<worker::v1::PrefillRequest>(model, prompt, 4);
  BATON_ASSIGN_OR_RETURN(*request.mutable_handoff(), reserved.Target());
  grpc::ClientContext context;
  const auto stream = pair.prefill().Run(&context, request);
  worker::v1::PrefillEvent event;
  while (stream->Read(&event)) {
    if (event.has_first_token()) {
      result.first_token = absl::ToDoubleSeconds(absl::Now() - start);
      result.cpu = CpuSeconds() - cpu;
    }
    if (event.has_done()) result.done = event.done();
  }
  const grpc::Status status = stream->Finish();
  if (!status.ok()) return absl::UnavailableError(status.error_message());
  BATON_RETURN_IF_ERROR(reserved.WaitForTokens());
  result.second_token = absl::ToDoubleSeconds(absl::Now() - start);
  return result;
}

absl::Status MeasureWhole(Model& model, Model& decode_model, const Flags& flags, int64_t memory) {
  std::printf("\n%8s  %-10s %12s %12s %8s %10s %12s %12s %12s\n", "prompt", "transport", "in-process s", "separated s",
              "ratio", "CPU ratio", "exposed ms", "of prefill", "2nd token s");
  for (int tokens : flags.engine_prompts) {
    const std::vector<int32_t> prompt = Prompt(model, tokens);
    for (const std::string& name : flags.engine_transports) {
      HandoffOptions handoff;
      handoff.transport = name == "grpc" ? HandoffTransport::kGrpc : HandoffTransport::kShm;
      WorkerPair pair(&model, &decode_model, handoff, flags.chunk_tokens, memory);
      BATON_RETURN_IF_ERROR(pair.Start());
      // Warms up both models' buffers and the connection.
      BATON_RETURN_IF_ERROR(RunSeparated(pair, model, Prompt(model, 16)).status());
      std::vector<double> alone;
      std::vector<double> alone_cpu;
      std::vector<double> separated_cpu;
      std::vector<Separated> separated;
      for (int i = 0; i < flags.engine_repeats; ++i) {
        const double cpu = CpuSeconds();
        BATON_ASSIGN_OR_RETURN(alone.emplace_back(), InProcess(model, prompt, flags.chunk_tokens, memory));
        alone_cpu.push_back(CpuSeconds() - cpu);
        BATON_ASSIGN_OR_RETURN(separated.emplace_back(), RunSeparated(pair, model, prompt));
        separated_cpu.push_back(separated.back().cpu);
      }
      std::sort(separated.begin(), separated.end(),
                [](const Separated& a, const Separated& b) { return a.first_token < b.first_token; });
      const Separated& median = separated[separated.size() / 2];
      std::printf("%8d  %-10s %12.3f %12.3f %8.4f %10.4f %12.2f %11.3f%% %12.3f\n", tokens, name.c_str(), Median(alone),
                  median.first_token, median.first_token / Median(alone), Median(separated_cpu) / Median(alone_cpu),
                  1e3 * median.done.handoff_seconds(),
                  100 * median.done.handoff_seconds() / median.done.compute_seconds(), median.second_token);
      std::fflush(stdout);
    }
  }
  return absl::OkStatus();
}

absl::Status Run(Flags& flags) {
  std::erase(flags.prompts, 0);
  std::erase(flags.engine_prompts, 0);
  if (!flags.cpus.empty()) {
    BATON_ASSIGN_OR_RETURN(const std::vector<int> cpus, ParseCpuList(flags.cpus));
    BATON_RETURN_IF_ERROR(PinProcess(cpus));
  }
  LogOptions quiet;
  quiet.minimum = Severity::kError;
  ConfigureLog(quiet);
  ApplyIsa(flags.engine);
  const ModelOptions options = flags.engine.ToModelOptions();
  BATON_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, Model::Load(flags.directory, options));
  BATON_ASSIGN_OR_RETURN(const std::unique_ptr<Model> decode_model, Model::Load(flags.directory, options));
  int64_t longest = 0;
  for (int tokens : flags.prompts) longest = std::max<int64_t>(longest, tokens);
  for (int tokens : flags.engine_prompts) longest = std::max<int64_t>(longest, tokens);
  const int64_t memory = 2 * model->MakeStateLayout(flags.chunk_tokens)->BytesFor(longest + 64);

  MachineMeter meter({.threads = flags.engine.threads, .seconds_per_figure = 0.12});
  std::printf("%s, %s, chunks of %d\n%s\n", flags.directory.c_str(),
              std::string(WeightPrecisionName(model->weights())).c_str(), flags.chunk_tokens,
              LimitsLine("before", meter.last()).c_str());
  if (!flags.prompts.empty()) BATON_RETURN_IF_ERROR(MeasureTransport(*model, *decode_model, flags, memory));
  if (!flags.engine_prompts.empty()) BATON_RETURN_IF_ERROR(MeasureWhole(*model, *decode_model, flags, memory));
  std::printf("%s\n", LimitsLine("after", meter.Measure()).c_str());
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("What handing a state from a prefill to a decode worker costs.", "bench_handoff");
  app.set_version_flag("--version", kVersion);
  app.add_option("--model", flags.directory, "Hugging Face checkpoint directory")->required();
  AddEngineFlags(app, &flags.engine);
  constexpr int kMost = 1 << 20;
  app.add_option("--cpus", flags.cpus, "run on these CPUs only, e.g. 0-3,8");
  app.add_option("--prompt", flags.prompts, "prompt lengths of transport alone; 0: none")
      ->delimiter(',')
      ->check(CLI::Range(0, kMost))
      ->capture_default_str();
  app.add_option("--engine-prompt", flags.engine_prompts, "prompt lengths that are really computed; 0: none")
      ->delimiter(',')
      ->check(CLI::Range(0, kMost))
      ->capture_default_str();
  app.add_option("--chunk-tokens", flags.chunk_tokens, "longest run of one forward call")
      ->check(CLI::Range(1, kMost))
      ->capture_default_str();
  app.add_option("--repeat", flags.repeats, "timed transfers of each figure; the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--engine-repeat", flags.engine_repeats, "computed prompts of each figure")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--engine-transport", flags.engine_transports, "how computed prompts are handed over")
      ->delimiter(',')
      ->check(CLI::IsMember({"grpc", "shm"}))
      ->capture_default_str();
  if (const absl::optional<int> code = ParseCommandLine(app, argc, argv)) return *code;
  return EndProgram(app, Run(flags));
}

}  // namespace
}  // namespace baton

int main(int argc, char** argv) { return baton::RunProgram(&baton::Main, argc, argv); }
