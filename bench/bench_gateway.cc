// bench_gateway: what a gateway costs, with workers that answer at once. A real baton-gateway runs alone on one core;
// workers and clients share another.
//
//   bench_gateway --model deploy/models/tiny-gemma2                     # everything
//   bench_gateway --measure streams,floor --streams 16,256 --rates 50000,100000,200000 --repeat 3 --json gateway.json
#include <cstdio>
#include <string>
#include <thread>
#include <vector>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "bench/bare_relay.h"
#include "bench/command_line.h"
#include "bench/figures_file.h"
#include "bench/gateway_cost.h"
#include "bench/measured_process.h"
#include "bench/median.h"
#include "common/base/bytes.h"
#include "common/base/lock_order.h"
#include "common/base/status_macros.h"
#include "common/base/version.h"
#include "common/rpc/real_range.h"
#include "common/rpc/shutdown_signal.h"

namespace baton {
namespace {

using nlohmann::ordered_json;

struct Flags {
  GatewayCostOptions cost;
  std::vector<std::string> measure = {"latency", "requests", "streams", "floor", "idle"};
  std::vector<int> streams = {1, 16, 256};
  std::vector<double> rates = {25000, 50000, 100000, 200000};
  std::vector<int> output_tokens = {1, 16};
  int callers = 8;
  int idle_streams = 10000;
  int repeat = 1;
  std::string json_file;
  std::string relay;
};

void AddOptions(CLI::App& app, Flags* flags) {
  GatewayCostOptions& cost = flags->cost;
  app.add_option("--measure", flags->measure, "What to measure")
      ->delimiter(',')
      ->check(CLI::IsMember({"latency", "requests", "streams", "floor", "idle"}))
      ->capture_default_str();
  app.add_option("--model", cost.model, "Directory with the tokenizer that the workers give out")
      ->type_name("DIR")
      ->capture_default_str();
  app.add_option("--gateway-program", cost.gateway_program, "baton-gateway. Left out: beside this program")
      ->type_name("FILE");
  app.add_option("--gateway-flag", cost.gateway_flags,
                 "A further flag for it (--gateway-flag=--NAME=VALUE); repeatable");
  app.add_option("--gateway-log", cost.gateway_log, "Where its log goes")->type_name("FILE")->capture_default_str();
  app.add_option("--gateway-core", cost.gateway_core, "Core that the gateway has to itself")
      ->check(CLI::Range(0, 1023))
      ->capture_default_str();
  app.add_option("--load-core", cost.load_core, "Core of workers and clients")
      ->check(CLI::Range(0, 1023))
      ->capture_default_str();
  app.add_option("--seconds", cost.seconds, "Length of each measurement")
      ->check(RealRange(0.1, 3600.0))
      ->capture_default_str();
  app.add_option("--repeat", flags->repeat, "Passes; medians are told")
      ->check(CLI::Range(1, 100))
      ->capture_default_str();
  app.add_option("--pairs", cost.pairs, "Latency: requests through the gateway, and as many to the workers")
      ->check(CLI::Range(10, 1000000))
      ->capture_default_str();
  app.add_option("--connections", cost.connections, "Connections of the clients, at least")
      ->check(CLI::Range(1, 10000))
      ->capture_default_str();
  app.add_option("--output-tokens", flags->output_tokens, "Requests: lengths of the answers")
      ->delimiter(',')
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--callers", flags->callers, "Requests: at a time")->check(CLI::Range(1, 1000))->capture_default_str();
  app.add_option("--streams", flags->streams, "Streams and floor: numbers of streams")
      ->delimiter(',')
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  app.add_option("--rates", flags->rates, "Streams and floor: tokens a second that the workers sample in all")
      ->delimiter(',')
      ->check(RealRange(1.0, 1e8))
      ->capture_default_str();
  app.add_option("--idle-streams", flags->idle_streams, "Idle: streams open at a time")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  app.add_option("--json", flags->json_file, "Also write the figures to this file")->type_name("FILE");
  // What this program runs beside itself as the floor.
  app.add_option("--relay", flags->relay)->group("");
}

// One figure of several passes.
template <typename Result, typename Figure>
double MedianOf(const std::vector<Result>& passes, Figure figure) {
  std::vector<double> values;
  values.reserve(passes.size());
  for (const Result& pass : passes) values.push_back(figure(pass));
  return Median(std::move(values));
}

template <typename Result, typename Measure>
absl::StatusOr<std::vector<Result>> Passes(int repeat, Measure measure) {
  std::vector<Result> passes;
  for (int i = 0; i < repeat; ++i) {
    BATON_ASSIGN_OR_RETURN(passes.emplace_back(), measure());
  }
  return passes;
}

absl::Status Latency(const Flags& flags, ordered_json* json) {
  std::printf("time to first token, one request at a time, milliseconds (p50 / p99)\n");
  std::printf("  %-22s %17s %17s %17s\n", "prompt computed by", "through gateway", "workers alone", "added");
  for (const bool local : {false, true}) {
    BATON_ASSIGN_OR_RETURN(const std::vector<AddedLatency> passes,
                           Passes<AddedLatency>(flags.repeat, [&] { return MeasureLatency(flags.cost, local); }));
    ordered_json row = {{"prompt", local ? "decode worker" : "prefill worker"}};
    std::string line = absl::StrFormat("  %-22s", local ? "the decode worker" : "a prefill worker");
    const auto add = [&](const char* name, LatencySummary AddedLatency::*which) {
      const double p50 = MedianOf(passes, [&](const AddedLatency& pass) { return (pass.*which).p50; });
      const double p99 = MedianOf(passes, [&](const AddedLatency& pass) { return (pass.*which).p99; });
      absl::StrAppendFormat(&line, " %8.3f /%7.3f", 1000 * p50, 1000 * p99);
      row[name] = {{"p50_seconds", p50}, {"p99_seconds", p99}};
    };
    add("gateway", &AddedLatency::gateway);
    add("direct", &AddedLatency::direct);
    add("added", &AddedLatency::added);
    std::printf("%s\n", line.c_str());
    (*json)["latency"].push_back(std::move(row));
  }
  return absl::OkStatus();
}

absl::Status Requests(const Flags& flags, ordered_json* json) {
  std::printf("unary requests, %d at a time\n", flags.callers);
  std::printf("  %13s %12s %26s\n", "output tokens", "requests/s", "per gateway CPU second");
  for (const int tokens : flags.output_tokens) {
    BATON_ASSIGN_OR_RETURN(const std::vector<RequestCost> passes, Passes<RequestCost>(flags.repeat, [&] {
                             return MeasureRequests(flags.cost, tokens, flags.callers);
                           }));
    const double rate = MedianOf(passes, [](const RequestCost& pass) { return pass.requests_per_second; });
    const double per_cpu = MedianOf(passes, [](const RequestCost& pass) { return pass.requests_per_cpu_second; });
    std::printf("  %13d %12.0f %26.0f\n", tokens, rate, per_cpu);
    (*json)["requests"].push_back(
        {{"output_tokens", tokens}, {"requests_per_second", rate}, {"requests_per_cpu_second", per_cpu}});
  }
  return absl::OkStatus();
}

absl::Status Streams(const Flags& flags, bool relay, ordered_json* json) {
  std::printf("%s\n", relay ? "floor: a bare gRPC relay, a message for a message" : "streams through the gateway");
  std::printf("  %7s %11s %11s %6s %14s %10s %10s %8s\n", "streams", "sampled/s", "tokens/s", "core", "tokens/CPU s",
              "per msg in", "per msg out", "behind");
  for (const int streams : flags.streams) {
    for (const double rate : flags.rates) {
      BATON_ASSIGN_OR_RETURN(const std::vector<StreamCost> passes, Passes<StreamCost>(flags.repeat, [&] {
                               return MeasureStreams(flags.cost, streams, rate, relay);
                             }));
      ordered_json row = {{"streams", streams}, {"asked_per_second", rate}};
      const auto median = [&](const char* name, double StreamCost::*which) {
        const double value = MedianOf(passes, [&](const StreamCost& pass) { return pass.*which; });
        row[name] = value;
        return value;
      };
      const double offered = median("sampled_per_second", &StreamCost::offered);
      const double delivered = median("tokens_per_second", &StreamCost::delivered);
      const double share = median("core_share", &StreamCost::cpu_share);
      const double per_cpu = median("tokens_per_cpu_second", &StreamCost::tokens_per_cpu_second);
      const double in = median("tokens_per_message_in", &StreamCost::tokens_per_message_in);
      const double out = median("tokens_per_message_out", &StreamCost::tokens_per_message_out);
      const double behind = median("behind_seconds", &StreamCost::behind_seconds);
      std::printf("  %7d %11.0f %11.0f %5.0f%% %14.0f %10.2f %10.2f %7.3fs\n", streams, offered, delivered, 100 * share,
                  per_cpu, in, out, behind);
      std::fflush(stdout);
      (*json)[relay ? "floor" : "streams"].push_back(std::move(row));
    }
  }
  return absl::OkStatus();
}

absl::Status Idle(const Flags& flags, ordered_json* json) {
  BATON_ASSIGN_OR_RETURN(const IdleCost cost, MeasureIdle(flags.cost, flags.idle_streams));
  std::printf("idle streams: %d on %d connections, opened in %.1f s\n", cost.streams, cost.connections,
              cost.open_seconds);
  std::printf("  gateway's memory %s before, %s with them (%.1f KiB each), %s after; %.1f%% of its core while idle\n",
              FormatBytes(cost.bytes_before).c_str(), FormatBytes(cost.bytes_open).c_str(),
              cost.bytes_per_stream / 1024, FormatBytes(cost.bytes_after).c_str(), 100 * cost.cpu_share);
  std::printf("  %lld ended as they should\n", static_cast<long long>(cost.ended_well));
  (*json)["idle"] = {{"streams", cost.streams},
                     {"connections", cost.connections},
                     {"open_seconds", cost.open_seconds},
                     {"bytes_before", cost.bytes_before},
                     {"bytes_open", cost.bytes_open},
                     {"bytes_after", cost.bytes_after},
                     {"bytes_per_stream", cost.bytes_per_stream},
                     {"core_share", cost.cpu_share},
                     {"ended_well", cost.ended_well}};
  return absl::OkStatus();
}

absl::Status RunBenchmark(const Flags& flags) {
  if (flags.cost.gateway_core == flags.cost.load_core) {
    std::fprintf(stderr, "bench_gateway: gateway and load share core %d, which slows both\n", flags.cost.load_core);
  }
  BATON_RETURN_IF_ERROR(PinToCore(flags.cost.load_core));
  RaiseOpenFileLimit();
  ordered_json json = {{"version", kVersion}, {"seconds", flags.cost.seconds}, {"repeat", flags.repeat}};
  for (const std::string& what : flags.measure) {
    if (what == "latency") BATON_RETURN_IF_ERROR(Latency(flags, &json));
    if (what == "requests") BATON_RETURN_IF_ERROR(Requests(flags, &json));
    if (what == "streams") BATON_RETURN_IF_ERROR(Streams(flags, /*relay=*/false, &json));
    if (what == "floor") BATON_RETURN_IF_ERROR(Streams(flags, /*relay=*/true, &json));
    if (what == "idle") BATON_RETURN_IF_ERROR(Idle(flags, &json));
    std::fflush(stdout);
  }
  return WriteFigures(flags.json_file, json.dump(2) + "\n");
}

int Main(int argc, char** argv) {
  CLI::App app(
      "What a gateway costs, with workers that answer at once: added latency, requests and streamed tokens a "
      "second of one core, memory of idle streams.",
      "bench_gateway");
  app.set_version_flag("--version", absl::StrCat("bench_gateway ", kVersion));
  Flags flags;
  flags.cost.gateway_program = OwnDirectory() + "/baton-gateway";
  flags.cost.own_program = OwnDirectory() + "/bench_gateway";
  AddOptions(app, &flags);
  if (const absl::optional<int> code = ParseCommandLine(app, argc, argv)) return *code;
  LeaveLockOrderToTests();
  if (flags.relay.empty()) return EndProgram(app, RunBenchmark(flags));
  BlockShutdownSignals();
  return EndProgram(app, RunBareRelay(flags.relay));
}

}  // namespace
}  // namespace baton

int main(int argc, char** argv) { return baton::RunProgram(&baton::Main, argc, argv); }
