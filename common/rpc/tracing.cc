#include "common/rpc/tracing.h"

#include <algorithm>
#include <utility>

#include "common/base/status_macros.h"
#include "common/rpc/command_line.h"
#include "common/rpc/real_range.h"
#include "common/rpc/service_tls.h"

namespace baton {
namespace {

constexpr size_t kMaxHistory = 100000;
constexpr absl::Duration kFlushTime = absl::Seconds(2);
// Of one answer; a request with more has kept a fleet busy for hours.
constexpr int kMaxRememberedSpans = 20000;

absl::Status Check(const TracingFlags& flags) {
  if (flags.endpoint.empty() && !flags.tls.ca.empty()) {
    return absl::InvalidArgumentError("--otlp-ca needs --otlp-endpoint: there is no connection without it");
  }
  return CheckServiceTls("otlp", flags.tls);
}

}  // namespace

void AddTracingFlags(CLI::App& app, TracingFlags* flags) {
  app.add_option("--otlp-endpoint", flags->endpoint,
                 "OpenTelemetry collector to send spans to by OTLP over gRPC, such as 127.0.0.1:4317 (default: none)")
      ->check(IsHostPort())
      ->type_name("HOST:PORT");
  AddServiceTlsFlags(app, "otlp", "the collector", &flags->tls);
  app.add_option_function<double>(
         "--trace-ratio", [flags](const double& ratio) { flags->ratio = ratio; },
         "Share of requests that are traced for the collector, 0 to 1; requests that come with a traceparent are as it "
         "says (default: 1 with --otlp-endpoint)")
      ->check(RealRange(0, 1).description(""))
      ->type_name("RATIO");
  app.add_option("--trace-history", flags->history,
                 "Requests that are remembered for `baton trace`, collector or not; 0: none")
      ->check(CLI::Range(size_t{0}, kMaxHistory).description(""))
      ->type_name("N")
      ->capture_default_str();
}

absl::StatusOr<std::shared_ptr<Tracing>> Tracing::Create(const TracingFlags& flags, TraceProcess process,
                                                         Metrics* metrics) {
  BATON_RETURN_IF_ERROR(Check(flags));
  // Also without a collector: who watches them for all processes finds them.
  for (const char* const result : {"exported", "dropped", "failed"}) OtlpExporter::SpanCounter(metrics, result);
  std::shared_ptr<Tracing> tracing(new Tracing(std::move(process)));
  TracerOptions options;
  options.history = flags.history;
  options.ratio = flags.ratio.value_or(flags.endpoint.empty() ? 0 : 1);
  if (!flags.endpoint.empty()) {
    OtlpExporterOptions exporter;
    exporter.endpoint = flags.endpoint;
    exporter.tls = flags.tls;
    exporter.process = tracing->process_;
    tracing->exporter_ = OtlpExporter::Start(std::move(exporter), metrics);
    options.sink = tracing->exporter_;
  }
  tracing->tracer_ = Tracer::Create(options);
  return tracing;
}

std::shared_ptr<Tracing> Tracing::WithHistoryOnly(TraceProcess process) {
  std::shared_ptr<Tracing> tracing(new Tracing(std::move(process)));
  TracerOptions options;
  options.history = kTraceHistory;
  tracing->tracer_ = Tracer::Create(options);
  return tracing;
}

otlp::ResourceSpans Tracing::Remembered(const std::string& request_id, const std::string& trace_id) const {
  otlp::ResourceSpans spans = MakeResourceSpans(process_);
  otlp::ScopeSpans* const scope = spans.mutable_scope_spans(0);
  for (const auto& trace : tracer_->history().Find(request_id)) {
    const bool same = trace_id.empty() || (trace_id.size() == trace->trace_id().size() &&
                                           std::equal(trace_id.begin(), trace_id.end(), trace->trace_id().begin(),
                                                      [](char a, uint8_t b) { return static_cast<uint8_t>(a) == b; }));
    if (same && scope->spans_size() < kMaxRememberedSpans) AddSpans(*trace, trace->Snapshot(), scope);
  }
  return spans;
}

void Tracing::Flush() {
  if (exporter_ != nullptr) exporter_->Stop(kFlushTime);
}

}  // namespace baton
