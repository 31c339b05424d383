// Sends sampled traces to an OpenTelemetry collector, by OTLP over gRPC (port 4317 by convention). Batched, on a thread
// of its own: whoever ends a request only queues its trace. A collector that is slow or away costs spans, which are
// counted, never requests.
//
//   auto exporter = OtlpExporter::Start(options, &metrics);
//   tracer_options.sink = exporter;
//   ...
//   exporter->Stop(absl::Seconds(2));       // sends what is queued, for at most so long
#pragma once

#include <condition_variable>
#include <cstddef>
#include <deque>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/channel.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/observe/log_limit.h"
#include "common/observe/metrics.h"
#include "common/observe/tracer.h"
#include "common/rpc/otlp_spans.h"
#include "common/rpc/stoppable_calls.h"
#include "common/rpc/tls_material.h"

namespace baton {

struct OtlpExporterOptions {
  // host:port.
  std::string endpoint;
  // With `ca` the connection is TLS; with both others it shows a certificate.
  TlsPaths tls;
  TraceProcess process;
  // Beyond this, further traces are dropped. About half a kilobyte each.
  size_t max_queued_spans = 16384;
  // Of one message, about; fewer are sent after the interval.
  size_t batch_spans = 512;
  absl::Duration interval = absl::Seconds(1);
  // Of one call. What fails for want of a collector is tried again, after a pause that doubles.
  absl::Duration timeout = absl::Seconds(5);
  absl::Duration first_pause = absl::Seconds(1);
  absl::Duration longest_pause = absl::Seconds(30);
};

class OtlpExporter final : public SpanSink {
 public:
  // `metrics` must outlive it.
  static std::shared_ptr<OtlpExporter> Start(OtlpExporterOptions options, Metrics* metrics);
  ~OtlpExporter() override;
  OtlpExporter(const OtlpExporter&) = delete;

  // Of "exported", "dropped" or "failed" spans.
  static prometheus::Counter& SpanCounter(Metrics* metrics, const char* result);

  void Take(std::shared_ptr<const CallTrace> trace) override;
  // What is then left is dropped, and so is what comes later. Idempotent.
  void Stop(absl::Duration patience);

 private:
  using Traces = std::vector<std::shared_ptr<const CallTrace>>;

  OtlpExporter(OtlpExporterOptions options, Metrics* metrics);
  void Loop();
  // The next batch, or nothing when stopped and empty.
  Traces NextBatch();
  // Until it is sent, or is not to be.
  void SendBatch(const Traces& traces);
  // How many of the spans the collector has rejected for good.
  absl::StatusOr<int64_t> Export(const otlp::ExportTraceServiceRequest& request);
  // One line a minute while a collector is away.
  void Warn(const absl::Status& status);
  // True when stopped meanwhile.
  bool PauseFor(absl::Duration pause);

  const OtlpExporterOptions options_;
  prometheus::Counter& exported_;
  prometheus::Counter& dropped_;
  prometheus::Counter& failed_;
  StoppableCalls calls_;

  // The thread's own.
  std::shared_ptr<grpc::Channel> channel_;
  LogLimit warning_limit_{absl::Minutes(1)};

  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_.
  std::deque<std::shared_ptr<const CallTrace>> queue_;
  size_t queued_spans_ = 0;
  bool stopping_ = false;
  bool done_ = false;
  std::thread thread_;
};

}  // namespace baton
