// What tracing costs a request at the gateway, which records most of its spans, in time of the threads that serve it:
// with tracing off, remembered only, and sampled for a collector as well. Besides, what the exporter's own thread
// spends on it. The modes take turns, so that the ratio of two holds on a noisy machine too.
//
//   bench_tracing                      # a table
//   bench_tracing --json
#include <cstdlib>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "absl/strings/str_format.h"
#include "bench/command_line.h"
#include "bench/median.h"
#include "common/observe/tracer.h"
#include "common/rpc/otlp_spans.h"

namespace baton {
namespace {

constexpr int kRounds = 15;

// Takes traces as an exporter does, and lets go of them.
class Sink final : public SpanSink {
 public:
  void Take(std::shared_ptr<const CallTrace> trace) override {
    absl::MutexLock lock(&mutex_);
    last_ = std::move(trace);
  }
  std::shared_ptr<const CallTrace> last() {
    absl::MutexLock lock(&mutex_);
    return last_;
  }

 private:
  absl::Mutex mutex_;
  std::shared_ptr<const CallTrace> last_;
};

void CallWorker(const Span& attempt, const char* name) {
  const Span call = attempt.Child(name, SpanKind::kClient);
  call.Set("rpc.system", "grpc");
  call.Set("server.address", "10.0.0.17:7201");
  const absl::optional<TraceContext> context = call.context();
  // What goes into the metadata.
  if (context.has_value() && FormatTraceparent(*context).empty()) std::abort();
  call.Event("first token");
  call.Set("rpc.grpc.status_code", 0);
  call.End();
}

// The gateway's share of a request that runs undisturbed.
void ServeAtGateway(Tracer& tracer, const absl::optional<TraceContext>& parent) {
  const Span root = tracer.Begin("baton.v1.Inference/GenerateStream", parent, "req-4f3a5c0e9b1d2a6e71c2", "");
  root.Set("rpc.system", "grpc");
  root.Set("baton.request_id", "req-4f3a5c0e9b1d2a6e71c2");
  root.Set("gen_ai.operation.name", "text_completion");
  root.Child("prepare").End();
  root.Child("queue").End();
  const Span attempt = root.Child("attempt");
  attempt.Set("baton.attempt", 1);
  CallWorker(attempt, "baton.worker.v1.Decode/Run");
  CallWorker(attempt, "baton.worker.v1.Prefill/Run");
  root.Event("first token");
  attempt.End();
  root.Set("gen_ai.request.model", "gemma-2-2b-it");
  root.Set("gen_ai.usage.input_tokens", 512);
  root.Set("gen_ai.usage.output_tokens", 128);
  root.SetList("gen_ai.response.finish_reasons", "stop");
  root.Set("baton.attempts", 1);
  root.Set("baton.outcome", "stop");
  root.Set("rpc.grpc.status_code", 0);
  root.End();
}

// Processor time of this thread: what others do on the machine does not count.
double ThreadNanos() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e9 + static_cast<double>(now.tv_nsec);
}

struct Mode {
  const char* name;
  std::shared_ptr<Tracer> tracer;
  absl::optional<TraceContext> parent;
  std::vector<double> nanos;
};

double NanosOf(Mode& mode, int requests) {
  const double begin = ThreadNanos();
  for (int i = 0; i < requests; ++i) ServeAtGateway(*mode.tracer, mode.parent);
  return (ThreadNanos() - begin) / requests;
}

double ExportNanos(const CallTrace& trace, int requests) {
  constexpr int kBatch = 64;
  const double begin = ThreadNanos();
  size_t bytes = 0;
  for (int done = 0; done < requests; done += kBatch) {
    otlp::ResourceSpans spans = MakeResourceSpans({"baton-gateway", "0123456789abcdef"});
    for (int i = 0; i < kBatch; ++i) AddSpans(trace, trace.spans(), spans.mutable_scope_spans(0));
    bytes += spans.SerializeAsString().size();
  }
  if (bytes == 0) std::abort();
  return (ThreadNanos() - begin) / requests;
}

absl::Status Run(int requests, bool json) {
  const auto sink = std::make_shared<Sink>();
  TraceContext parent;
  parent.trace_id = NewTraceId();
  parent.span_id = NewSpanId();
  std::vector<Mode> modes;
  modes.push_back({"off", Tracer::Create({}), absl::nullopt, {}});
  modes.push_back({"off, context passed on", Tracer::Create({}), parent, {}});
  modes.push_back({"history", Tracer::Create({.history = 2000}), absl::nullopt, {}});
  modes.push_back(
      {"history and collector", Tracer::Create({.ratio = 1, .history = 2000, .sink = sink}), absl::nullopt, {}});
  std::vector<double> exported;
  for (int round = 0; round < kRounds; ++round) {
    for (Mode& mode : modes) mode.nanos.push_back(NanosOf(mode, requests));
    exported.push_back(ExportNanos(*sink->last(), requests));
  }
  const TraceHistory& history = modes[2].tracer->history();
  const double bytes = static_cast<double>(history.bytes()) / static_cast<double>(history.size());
  if (json) {
    for (const Mode& mode : modes) {
      absl::PrintF("{\"mode\":\"%s\",\"nanoseconds_per_request\":%.0f}\n", mode.name, Median(mode.nanos));
    }
    absl::PrintF("{\"mode\":\"exporter thread\",\"nanoseconds_per_request\":%.0f}\n", Median(exported));
    absl::PrintF("{\"bytes_per_remembered_request\":%.0f}\n", bytes);
    return absl::OkStatus();
  }
  absl::PrintF("%d rounds of %d requests, %d spans each; medians\n\n", kRounds, requests,
               static_cast<int>(sink->last()->spans().size()));
  for (const Mode& mode : modes) absl::PrintF("%-24s %8.0f ns a request\n", mode.name, Median(mode.nanos));
  absl::PrintF("%-24s %8.0f ns a request\n", "exporter thread", Median(exported));
  absl::PrintF("%-24s %8.0f bytes\n", "a remembered request", bytes);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("What tracing costs a request at the gateway.", "bench_tracing");
  int requests = 5000;
  bool json = false;
  app.add_option("--requests", requests, "Requests of each round")
      ->check(CLI::Range(1, 10000000))
      ->capture_default_str();
  app.add_flag("--json", json, "Lines of JSON");
  if (const absl::optional<int> code = ParseCommandLine(app, argc, argv)) return *code;
  return EndProgram(app, Run(requests, json));
}

}  // namespace
}  // namespace baton

int main(int argc, char** argv) { return baton::RunProgram(&baton::Main, argc, argv); }
