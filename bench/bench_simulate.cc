// bench_simulate: how a fleet of N prefill and M decode workers would serve a load, from measured times of one worker.
//
//   bench_engine --model DIR --prompt 128,512,2048 --batch 1,4,16,64 --context 128,2048 --json engine.json
//   bench_simulate --engine engine.json --trace arrivals.csv --prefill 4 --decode 2
//   bench_simulate --engine engine.json --rate 5 --prompt-tokens lognormal:800:0.8 --output-tokens uniform:50:300
//                  --slo-ttft-ms 2000 --slo-itl-ms 200 --recommend
//
// What is simulated and what is not: fleet_simulation.h.
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "bench/arrival_trace.h"
#include "bench/command_line.h"
#include "bench/figures_file.h"
#include "bench/fleet_simulation.h"
#include "bench/latency_json.h"
#include "common/base/bytes.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"
#include "common/base/version.h"
#include "common/rpc/real_range.h"

namespace baton {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kMaxEngineBytes = size_t{16} << 20;
constexpr size_t kMaxTraceBytes = size_t{64} << 20;

struct Flags {
  std::string engine_file;
  std::string trace_file;
  std::string json_file;
  std::string prompt_tokens = "uniform:32:256";
  std::string output_tokens = "fixed:64";
  std::string decode_memory;
  WorkloadOptions workload;
  FleetOptions fleet;
  double request_ms = 1;
  double handoff_ms = 2;
  double slo_ttft_ms = 0;
  double slo_itl_ms = 0;
  bool recommend = false;
  double share = 0.95;
  int max_workers = 64;
};

const CLI::Validator kLengths(
    [](std::string& text) { return std::string(LengthDistribution::Parse(text).status().message()); },
    "fixed:N|uniform:A:B|lognormal:MEAN:SIGMA", "lengths");

void AddLoadOptions(CLI::App& app, Flags* flags) {
  WorkloadOptions& workload = flags->workload;
  workload.requests = 2000;
  app.add_option("--trace", flags->trace_file,
                 "Arrivals to replay: CSV of seconds,prompt_tokens,output_tokens. Left out: the next five")
      ->type_name("FILE");
  app.add_option("--rate", workload.rate, "Requests a second that arrive on average, as bench_serve makes them")
      ->check(RealRange(1e-3, 1e5))
      ->capture_default_str();
  app.add_option("--requests", workload.requests, "Requests")
      ->check(CLI::Range(int64_t{1}, kMaxWorkItems))
      ->capture_default_str();
  app.add_option("--prompt-tokens", flags->prompt_tokens, "Lengths of prompts")->check(kLengths)->capture_default_str();
  app.add_option("--output-tokens", flags->output_tokens, "Lengths of outputs")->check(kLengths)->capture_default_str();
  app.add_option("--seed", workload.seed, "Arrivals and lengths")->capture_default_str();
}

void AddFleetOptions(CLI::App& app, Flags* flags) {
  FleetOptions& fleet = flags->fleet;
  app.add_option("--engine", flags->engine_file, "Times of one worker: what bench_engine --json wrote (required)")
      ->required()
      ->type_name("FILE");
  app.add_option("--prefill", fleet.prefill_workers, "Prefill workers")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--decode", fleet.decode_workers, "Decode workers")->check(CLI::Range(1, 4096))->capture_default_str();
  app.add_option("--chunk-tokens", fleet.chunk_tokens, "As of baton-prefill")
      ->check(CLI::Range(1, 1 << 20))
      ->capture_default_str();
  app.add_option("--max-batch", fleet.max_batch, "As of baton-decode")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--request-ms", flags->request_ms, "From a client to the prefill queue, and from a worker to a client")
      ->check(RealRange(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--handoff-ms", flags->handoff_ms,
                 "From a prompt's last chunk to its state at the decode worker (baton_handoff_seconds, exposed)")
      ->check(RealRange(0.0, 1e6))
      ->capture_default_str();
  app.add_option("--cached-share", fleet.cached_share, "Share of every prompt that prefix caches have")
      ->check(RealRange(0.0, 0.999))
      ->capture_default_str();
  app.add_option(
         "--decode-memory", flags->decode_memory,
         "--memory of a decode worker, such as 4GiB; requests that find no room are refused (default: unlimited)")
      ->check([](const std::string& text) { return std::string(ParseBytes(text).status().message()); })
      ->type_name("BYTES");
  app.add_option("--state-bytes-fixed", fleet.state_bytes_fixed, "State of a sequence: this many bytes")
      ->check(RealRange(0.0, 1e15))
      ->capture_default_str();
  app.add_option("--state-bytes-token", fleet.state_bytes_token, "... and this many for each token")
      ->check(RealRange(0.0, 1e12))
      ->capture_default_str();
}

void AddTargetOptions(CLI::App& app, Flags* flags) {
  app.add_option("--slo-ttft-ms", flags->slo_ttft_ms, "The first token comes within this time")
      ->check(CLI::PositiveNumber);
  app.add_option("--slo-itl-ms", flags->slo_itl_ms, "A request's mean time from token to token is at most this")
      ->check(CLI::PositiveNumber);
  app.add_flag("--recommend", flags->recommend,
               "Find the fewest workers that meet --slo-ttft-ms and --slo-itl-ms, instead of --prefill and --decode");
  app.add_option("--share", flags->share, "... for this share of the requests each")
      ->check(RealRange(0.01, 1.0))
      ->capture_default_str();
  app.add_option("--max-workers", flags->max_workers, "... with at most so many of each role")
      ->check(CLI::Range(1, 4096))
      ->capture_default_str();
  app.add_option("--json", flags->json_file, "Also write the figures to this file, - for stdout (and no table)")
      ->type_name("FILE");
}

absl::StatusOr<Workload> LoadOf(Flags& flags) {
  if (!flags.trace_file.empty()) {
    BATON_ASSIGN_OR_RETURN(const std::string text, ReadFile(flags.trace_file, kMaxTraceBytes));
    return ParseArrivalTrace(text, flags.trace_file);
  }
  BATON_ASSIGN_OR_RETURN(flags.workload.prompt_tokens, LengthDistribution::Parse(flags.prompt_tokens));
  BATON_ASSIGN_OR_RETURN(flags.workload.output_tokens, LengthDistribution::Parse(flags.output_tokens));
  flags.workload.max_tokens = std::numeric_limits<int32_t>::max();
  return MakeWorkload(flags.workload);
}

std::string Row(const char* name, const LatencySummary& summary) {
  if (summary.count == 0) return absl::StrFormat("%-24s %s\n", name, "none");
  return absl::StrFormat("%-24s %10.1f %10.1f %10.1f %10.1f %10.1f %9d\n", name, 1e3 * summary.mean, 1e3 * summary.p50,
                         1e3 * summary.p95, 1e3 * summary.p99, 1e3 * summary.max, summary.count);
}

std::string Text(const FleetSize& size, bool bounded) {
  const SimulationResult& result = size.result;
  std::string out = absl::StrFormat(
      "%d prefill and %d decode workers: %d requests in %.1f s, %d refused for lack of memory\n"
      "busy       prefill %.0f %%, decode %.0f %% with %.1f sequences a step\n",
      size.prefill_workers, size.decode_workers, result.report.arrived, result.end, result.refused,
      100 * result.prefill_busy, 100 * result.decode_busy, result.mean_batch);
  if (bounded) {
    absl::StrAppendFormat(&out, "in time    %.1f %% of first tokens, %.1f %% of the others\n",
                          100 * result.first_token_in_time, 100 * result.tokens_in_time);
  }
  absl::StrAppendFormat(&out, "\n%-24s %10s %10s %10s %10s %10s %9s\n", "milliseconds", "mean", "p50", "p95", "p99",
                        "max", "samples");
  absl::StrAppend(&out, Row("time to first token", result.report.time_to_first_token),
                  Row("inter-token", result.report.inter_token),
                  Row("time per output token", result.report.time_per_output_token),
                  Row("end to end", result.report.end_to_end));
  return out;
}

std::string JsonText(const FleetSize& size) {
  const SimulationResult& result = size.result;
  const Json out = {{"baton_version", kVersion},
                    {"prefill_workers", size.prefill_workers},
                    {"decode_workers", size.decode_workers},
                    {"requests", result.report.arrived},
                    {"refused", result.refused},
                    {"seconds_simulated", result.end},
                    {"busy", {{"prefill", result.prefill_busy}, {"decode", result.decode_busy}}},
                    {"mean_batch", result.mean_batch},
                    {"in_time", {{"first_token", result.first_token_in_time}, {"tokens", result.tokens_in_time}}},
                    {"seconds",
                     {{"time_to_first_token", ToJson(result.report.time_to_first_token)},
                      {"inter_token", ToJson(result.report.inter_token)},
                      {"time_per_output_token", ToJson(result.report.time_per_output_token)},
                      {"end_to_end", ToJson(result.report.end_to_end)}}}};
  return out.dump(2) + "\n";
}

absl::Status Run(Flags flags) {
  BATON_ASSIGN_OR_RETURN(const std::string engine, ReadFile(flags.engine_file, kMaxEngineBytes));
  BATON_ASSIGN_OR_RETURN(const ServiceTimes times, ServiceTimes::FromEngineJson(engine, flags.engine_file));
  BATON_ASSIGN_OR_RETURN(const Workload workload, LoadOf(flags));
  flags.fleet.request_seconds = flags.request_ms / 1e3;
  flags.fleet.handoff_seconds = flags.handoff_ms / 1e3;
  if (!flags.decode_memory.empty()) {
    BATON_ASSIGN_OR_RETURN(const int64_t bytes, ParseBytes(flags.decode_memory));
    flags.fleet.decode_memory = static_cast<double>(bytes);
  }
  if (flags.slo_ttft_ms > 0) flags.fleet.bounds.time_to_first_token = flags.slo_ttft_ms / 1e3;
  if (flags.slo_itl_ms > 0) flags.fleet.bounds.inter_token = flags.slo_itl_ms / 1e3;
  const bool bounded = flags.slo_ttft_ms > 0 || flags.slo_itl_ms > 0;

  FleetSize size;
  if (flags.recommend) {
    if (!bounded) return absl::InvalidArgumentError("--recommend needs --slo-ttft-ms, --slo-itl-ms or both");
    const absl::optional<FleetSize> found =
        RecommendFleet(flags.fleet, times, workload, flags.share, flags.max_workers);
    if (!found.has_value()) {
      return absl::NotFoundError(absl::StrFormat(
          "not even %d workers of each role meet these targets for %.0f %% of the requests: one worker alone is too "
          "slow for the longest of them, its memory too small, or --max-workers too low",
          flags.max_workers, 100 * flags.share));
    }
    size = *found;
  } else {
    size = {flags.fleet.prefill_workers, flags.fleet.decode_workers, SimulateFleet(flags.fleet, times, workload)};
  }
  if (flags.json_file != "-") std::fputs(Text(size, bounded).c_str(), stdout);
  return WriteFigures(flags.json_file, JsonText(size));
}

int Main(int argc, char** argv) {
  CLI::App app("How a fleet would serve a load, simulated from measured times of one worker.", "bench_simulate");
  Flags flags;
  app.set_version_flag("--version", kVersion);
  AddFleetOptions(app, &flags);
  AddLoadOptions(app, &flags);
  AddTargetOptions(app, &flags);
  if (const absl::optional<int> code = ParseCommandLine(app, argc, argv)) return *code;
  return EndProgram(app, Run(flags));
}

}  // namespace
}  // namespace baton

int main(int argc, char** argv) { return baton::RunProgram(&baton::Main, argc, argv); }
