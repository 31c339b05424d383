// Tracing of one server process: the flags, the tracer they ask for, and its exporter.
//
//   TracingFlags flags;
//   AddTracingFlags(app, &flags);
//   ...
//   const TraceProcess process = {"baton-decode", boot_id};
//   BATON_ASSIGN_OR_RETURN(const std::shared_ptr<Tracing> tracing, Tracing::Create(flags, process, &metrics));
//   Span span = tracing->tracer().Begin(...);
//   ...
//   tracing->Flush();                            // when the last request has ended
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "common/observe/metrics.h"
#include "common/observe/tracer.h"
#include "common/rpc/otlp_exporter.h"
#include "common/rpc/otlp_spans.h"
#include "common/rpc/tls_material.h"

namespace baton {

inline constexpr size_t kTraceHistory = 2000;

struct TracingFlags {
  // host:port; empty: no collector.
  std::string endpoint;
  TlsPaths tls;
  // Absent: all requests where there is a collector, else none.
  absl::optional<double> ratio;
  size_t history = kTraceHistory;
};

// --otlp-endpoint, --otlp-ca, --otlp-cert, --otlp-key, --trace-ratio, --trace-history. `flags` must outlive `app`.
void AddTracingFlags(CLI::App& app, TracingFlags* flags);

class Tracing {
 public:
  // INVALID_ARGUMENT when flags do not go together or a file is unusable. `metrics` must outlive it.
  static absl::StatusOr<std::shared_ptr<Tracing>> Create(const TracingFlags& flags, TraceProcess process,
                                                         Metrics* metrics);
  // Remembers a few requests and sends nothing: for tests and programs without flags.
  static std::shared_ptr<Tracing> WithHistoryOnly(TraceProcess process);
  ~Tracing() { Flush(); }
  Tracing(const Tracing&) = delete;

  Tracer& tracer() const { return *tracer_; }
  const TraceProcess& process() const { return process_; }
  // What the process remembers of this request, in this trace (16 bytes; empty: any).
  otlp::ResourceSpans Remembered(const std::string& request_id, const std::string& trace_id) const;
  // Sends what is queued, for at most two seconds; from then on nothing is sent.
  void Flush();

 private:
  explicit Tracing(TraceProcess process) : process_(std::move(process)) {}

  const TraceProcess process_;
  std::shared_ptr<OtlpExporter> exporter_;
  std::shared_ptr<Tracer> tracer_;
};

}  // namespace baton
