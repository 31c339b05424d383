// bench_serve: open-loop load on a running gateway. Requests arrive as a Poisson process that does not wait for
// answers; latencies count from the intended arrival.
//
//   bench_serve --gateway 127.0.0.1:7000 --model tiny-gemma2 --rate 5 --duration 60 --prompt-tokens lognormal:400:0.8
//               --output-tokens uniform:16:128 --slo-ttft-ms 500 --slo-itl-ms 50 --json run.json
//
// With --interference it measures instead how much long prompts disturb running streams, on one fleet or on several:
//
//   bench_serve --model tiny-gemma2 --interference separated=127.0.0.1:7000,shared=127.0.0.1:7010 --svg plot.svg
#include <signal.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <limits>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <grpcpp/client_context.h>
#include <CLI/CLI.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/command_line.h"
#include "bench/figures_file.h"
#include "bench/interference.h"
#include "bench/serve_load.h"
#include "bench/serve_report.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"
#include "common/base/version.h"
#include "common/rpc/channel.h"
#include "common/rpc/real_range.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

constexpr int kExitInterrupted = 130;
constexpr auto kQuickCall = std::chrono::seconds(10);
// Tokenized in one call to the gateway.
constexpr size_t kMaxPromptFileBytes = size_t{1} << 20;

struct Flags {
  ServeLoadOptions load;
  std::string prompt_tokens = "uniform:32:256";
  std::string output_tokens = "fixed:64";
  double temperature = -1;
  double slo_ttft_ms = 0;
  double slo_itl_ms = 0;
  std::string prompt_file;
  std::string json_file;
  bool quiet = false;
  // NAME=HOST:PORT of each fleet; not empty: this instead of open-loop load.
  std::vector<std::string> interference;
  InterferenceOptions interference_options;
  std::string svg_file;
};

const CLI::Validator kLengths(
    [](std::string& text) { return std::string(LengthDistribution::Parse(text).status().message()); },
    "fixed:N|uniform:A:B|lognormal:MEAN:SIGMA", "lengths");

void AddOptions(CLI::App& app, Flags* flags) {
  WorkloadOptions& workload = flags->load.workload;
  app.add_option("--gateway", flags->load.gateway, "Address of the gateway")
      ->type_name("HOST:PORT")
      ->envname("BATON_GATEWAY")
      ->default_str("127.0.0.1:7000");
  app.add_option("--model", flags->load.model, "Model to ask for. Left out: the only one")->type_name("NAME");
  app.add_option("--rate", workload.rate, "Requests a second that arrive on average")
      ->check(RealRange(1e-3, 1e5))
      ->capture_default_str();
  app.add_option("--duration", workload.duration, "Seconds of arrivals to measure (default 30, unless --requests)")
      ->check(RealRange(0.1, 86400.0));
  app.add_option("--requests", workload.requests, "Requests to measure")->check(CLI::Range(int64_t{1}, kMaxWorkItems));
  app.add_option("--warmup", workload.warmup, "Seconds of arrivals before those that are measured")
      ->check(RealRange(0.0, 3600.0))
      ->capture_default_str();
  app.add_option("--prompt-tokens", flags->prompt_tokens, "Lengths of prompts")->check(kLengths)->capture_default_str();
  app.add_option("--output-tokens", flags->output_tokens, "Lengths of outputs; EOS is ignored")
      ->check(kLengths)
      ->capture_default_str();
  app.add_option("--prompt-file", flags->prompt_file,
                 "Prompts are pieces of this text (at most 1 MiB). Left out: random token ids")
      ->type_name("FILE");
  app.add_option("--shared-prefix", workload.shared_prefix,
                 "Tokens that all prompts begin with, as with a common system prompt: part of --prompt-tokens")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30).description(""))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--concurrency", flags->load.concurrency,
                 "Requests in flight at most; beyond that they wait here while their clocks run")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--connections", flags->load.connections, "Connections to the gateway")
      ->check(CLI::Range(1, 256))
      ->capture_default_str();
  app.add_option("--timeout", flags->load.timeout, "Seconds from its arrival after which a request has failed")
      ->check(RealRange(0.1, 86400.0))
      ->capture_default_str();
  app.add_option("--priority", flags->load.priority, "Priority of all requests")->check(CLI::Range(-100, 100));
  app.add_option("--temperature", flags->temperature, "Sampling temperature. Left out: the model's default")
      ->check(RealRange(0.0, 100.0));
  app.add_option("--slo-ttft-ms", flags->slo_ttft_ms, "Goodput: the first token comes within this time")
      ->check(CLI::PositiveNumber);
  app.add_option("--slo-itl-ms", flags->slo_itl_ms,
                 "Goodput: a request's mean time from token to token is at most this")
      ->check(CLI::PositiveNumber);
  app.add_option("--seed", workload.seed, "Arrivals, lengths and prompts")->capture_default_str();
  app.add_option("--json", flags->json_file, "Also write the figures to this file, - for stdout (and no table)")
      ->type_name("FILE");
  app.add_flag("--quiet", flags->quiet, "No progress on stderr");

  InterferenceOptions& interference = flags->interference_options;
  app.add_option("--interference", flags->interference,
                 "Measure how much long prompts disturb running streams, on the fleets behind these gateways in turn")
      ->delimiter(',')
      ->type_name("NAME=HOST:PORT,...");
  app.add_option("--streams", interference.streams, "Interference: streams that decode all the time")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--long-prompt-tokens", interference.prompt_tokens, "Interference: length of the prompts that arrive")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--long-prompts", interference.prompts_in_flight, "Interference: long prompts under way at a time")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--phase-seconds", interference.seconds, "Interference: length of the quiet and of the loaded phase")
      ->check(RealRange(0.5, 3600.0))
      ->capture_default_str();
  app.add_option("--svg", flags->svg_file, "Interference: also draw the gaps between tokens over time")
      ->type_name("FILE");
}

// Learns the model's name, vocabulary and context from the gateway, and turns the prompt file into ids.
absl::Status PrepareWorkload(const Flags& flags, ServeLoadOptions* load) {
  const std::unique_ptr<v1::Inference::Stub> stub = v1::Inference::NewStub(NewChannel(load->gateway));
  v1::ListModelsResponse models;
  {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kQuickCall);
    const grpc::Status status = stub->ListModels(&context, {}, &models);
    if (!status.ok()) {
      return absl::UnavailableError(absl::StrCat("the gateway at ", load->gateway, " did not list its models: ",
                                                 status.error_message(), "; is it running there (--gateway)?"));
    }
  }
  std::string names;
  const v1::ModelCard* chosen = nullptr;
  for (const v1::ModelCard& card : models.models()) {
    absl::StrAppend(&names, names.empty() ? "" : ", ", card.name());
    if (card.name() == load->model || (load->model.empty() && models.models_size() == 1)) chosen = &card;
  }
  if (chosen == nullptr) {
    if (names.empty()) return absl::NotFoundError("the gateway serves no model yet");
    return absl::NotFoundError(load->model.empty()
                                   ? absl::StrCat("choose one of the gateway's models with --model: ", names)
                                   : absl::StrCat("no model \"", load->model, "\" here; there are: ", names));
  }
  if (!chosen->ready())
    return absl::UnavailableError(absl::StrCat(chosen->name(), " has no workers of both roles yet"));
  load->model = chosen->name();
  load->workload.max_tokens = chosen->max_tokens();
  load->workload.vocab_size = chosen->vocab_size();
  if (load->workload.vocab_size < 1) return absl::InternalError("the gateway reports an empty vocabulary");
  if (flags.prompt_file.empty()) return absl::OkStatus();

  BATON_ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.prompt_file, kMaxPromptFileBytes));
  v1::TokenizeRequest request;
  request.set_model(load->model);
  request.mutable_text()->set_text(text);
  request.mutable_text()->set_add_bos(false);
  v1::TokenizeResponse tokens;
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kQuickCall);
  const grpc::Status status = stub->Tokenize(&context, request, &tokens);
  if (!status.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(flags.prompt_file, ": ", status.error_message()));
  }
  if (tokens.ids().empty()) return absl::InvalidArgumentError(absl::StrCat(flags.prompt_file, ": no tokens in it"));
  load->workload.text_ids.assign(tokens.ids().begin(), tokens.ids().end());
  return absl::OkStatus();
}

// Interrupts the run at SIGINT or SIGTERM; a second signal ends the process. By handlers, not by blocked signals:
// libraries start threads before main, and those would take them.
class SignalListener {
 public:
  explicit SignalListener(ServeLoad* load) {
    BATON_CHECK((event_ = eventfd(0, EFD_CLOEXEC)) >= 0);
    struct sigaction action = {};
    action.sa_handler = [](int) { Wake(); };
    action.sa_flags = SA_RESETHAND | SA_RESTART;
    for (const int signal : kSignals) BATON_CHECK(sigaction(signal, &action, nullptr) == 0);
    thread_ = std::thread([this, load] {
      uint64_t times;
      while (!over_) {
        if (read(event_, &times, sizeof(times)) == sizeof(times) && !over_) load->Interrupt();
      }
    });
  }
  ~SignalListener() {
    for (const int signal : kSignals) ::signal(signal, SIG_DFL);
    over_ = true;
    Wake();
    thread_.join();
    close(event_);
  }
  SignalListener(const SignalListener&) = delete;

 private:
  static constexpr int kSignals[] = {SIGINT, SIGTERM};
  // Also from the signal handler.
  static void Wake() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(event_, &one, sizeof(one));
  }
  static inline int event_ = -1;
  std::atomic<bool> over_{false};
  std::thread thread_;
};

void ShowProgress(const ServeLoad::Progress& progress, const ServeResults& results, bool terminal) {
  const ServeResults::Progress done = results.progress();
  std::fprintf(stderr, "%s%.0f s: %lld sent, %lld in flight, %lld completed, %lld failed%s", terminal ? "\r\033[K" : "",
               progress.seconds, static_cast<long long>(progress.sent), static_cast<long long>(progress.in_flight),
               static_cast<long long>(done.completed), static_cast<long long>(done.failed), terminal ? "" : "\n");
}

absl::Status RunInterference(Flags flags) {
  std::vector<InterferenceSetup> setups;
  for (const std::string& text : flags.interference) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      return absl::InvalidArgumentError(absl::StrCat("--interference: expected NAME=HOST:PORT, got \"", text, "\""));
    }
    setups.push_back({text.substr(0, equals), text.substr(equals + 1)});
  }
  std::vector<InterferenceResult> results;
  InterferenceOptions& options = flags.interference_options;
  options.seed = flags.load.workload.seed;
  for (const InterferenceSetup& setup : setups) {
    flags.load.gateway = setup.gateway;
    BATON_RETURN_IF_ERROR(PrepareWorkload(flags, &flags.load));
    options.model = flags.load.model;
    options.vocab_size = flags.load.workload.vocab_size;
    options.max_tokens = flags.load.workload.max_tokens;
    if (!flags.quiet) std::fprintf(stderr, "%s: %.0f s\n", setup.name.c_str(), options.warmup + 2 * options.seconds);
    BATON_ASSIGN_OR_RETURN(results.emplace_back(), MeasureInterference(options, setup));
  }
  if (flags.json_file != "-") std::fputs(InterferenceText(options, results).c_str(), stdout);
  BATON_RETURN_IF_ERROR(WriteFigures(flags.json_file, InterferenceJson(options, results)));
  return WriteFigures(flags.svg_file, InterferenceSvg(options, results));
}

absl::StatusOr<int> RunBenchmark(Flags flags) {
  ServeRun run;
  run.load = std::move(flags.load);
  if (flags.temperature >= 0) run.load.temperature = static_cast<float>(flags.temperature);
  BATON_ASSIGN_OR_RETURN(run.load.workload.prompt_tokens, LengthDistribution::Parse(flags.prompt_tokens));
  BATON_ASSIGN_OR_RETURN(run.load.workload.output_tokens, LengthDistribution::Parse(flags.output_tokens));
  constexpr double kUnbounded = std::numeric_limits<double>::infinity();
  run.bounds.time_to_first_token = flags.slo_ttft_ms > 0 ? flags.slo_ttft_ms / 1000 : kUnbounded;
  run.bounds.inter_token = flags.slo_itl_ms > 0 ? flags.slo_itl_ms / 1000 : kUnbounded;
  BATON_RETURN_IF_ERROR(PrepareWorkload(flags, &run.load));
  BATON_ASSIGN_OR_RETURN(run.workload, MakeWorkload(run.load.workload));

  ServeResults results(run.workload);
  ServeLoad load(run.load, run.workload, &results);
  double ended = 0;
  {
    const bool terminal = isatty(STDERR_FILENO) == 1;
    // Off a terminal a line every ten seconds is enough.
    int calls = 0;
    SignalListener listener(&load);
    load.Run([&](const ServeLoad::Progress& progress) {
      if (flags.quiet || (!terminal && ++calls % 10 != 0)) return;
      ShowProgress(progress, results, terminal);
    });
    ended = load.Now();
    if (terminal && !flags.quiet) std::fputs("\r\033[K", stderr);
  }
  run.end = load.progress();
  run.interrupted = load.interrupted();
  const ServeReport report = results.Report(ended, run.interrupted, run.bounds);
  if (flags.json_file != "-") std::fputs(ReportText(run, report).c_str(), stdout);
  BATON_RETURN_IF_ERROR(WriteFigures(flags.json_file, ReportJson(run, report)));
  if (run.interrupted) return kExitInterrupted;
  return report.completed > 0 ? 0 : kExitFailure;
}

int Main(int argc, char** argv) {
  CLI::App app("Open-loop load on a Baton gateway: Poisson arrivals, latencies from the intended arrival.",
               "bench_serve");
  app.set_version_flag("--version", absl::StrCat("bench_serve ", kVersion));
  Flags flags;
  flags.load.gateway = "127.0.0.1:7000";
  AddOptions(app, &flags);
  if (const absl::optional<int> code = ParseCommandLine(app, argc, argv)) return *code;
  if (flags.load.workload.duration == 0 && flags.load.workload.requests == 0) flags.load.workload.duration = 30;
  if (!flags.interference.empty()) {
    return EndProgram(app, RunInterference(std::move(flags)));
  }
  const absl::StatusOr<int> code = RunBenchmark(std::move(flags));
  return code.ok() ? *code : EndProgram(app, code.status());
}

}  // namespace
}  // namespace baton

int main(int argc, char** argv) { return baton::RunProgram(&baton::Main, argc, argv); }
