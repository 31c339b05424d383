#include "common/rpc/otlp_exporter.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/channel.h"
#include "common/rpc/service_tls.h"
#include "common/rpc/status_mapping.h"
#include "otlp/trace.grpc.pb.h"

namespace baton {
namespace {

absl::StatusOr<std::shared_ptr<grpc::Channel>> Connect(const OtlpExporterOptions& options) {
  ChannelOptions channel;
  // Collectors hang up on those that ping often; calls have deadlines anyway.
  channel.keepalive_ms = std::numeric_limits<int>::max();
  channel.within_fleet = false;
  BATON_ASSIGN_OR_RETURN(channel.credentials, ServiceCredentials(options.tls));
  return NewChannel(options.endpoint, channel);
}

// By the protocol's list of what may be tried again.
bool MaySucceedLater(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kCancelled:
    case absl::StatusCode::kDeadlineExceeded:
    case absl::StatusCode::kAborted:
    case absl::StatusCode::kOutOfRange:
    case absl::StatusCode::kUnavailable:
    case absl::StatusCode::kDataLoss:
      return true;
    case absl::StatusCode::kResourceExhausted:
      return RetryDelay(status) > absl::ZeroDuration();
    default:
      return false;
  }
}

size_t SpansOf(const std::vector<std::shared_ptr<const CallTrace>>& traces) {
  size_t spans = 0;
  for (const auto& trace : traces) spans += trace->spans().size();
  return spans;
}

}  // namespace

prometheus::Counter& OtlpExporter::SpanCounter(Metrics* metrics, const char* result) {
  return metrics->AddCounter("baton_trace_spans_total", "Spans for the collector.", {{"result", result}});
}

std::shared_ptr<OtlpExporter> OtlpExporter::Start(OtlpExporterOptions options, Metrics* metrics) {
  return std::shared_ptr<OtlpExporter>(new OtlpExporter(std::move(options), metrics));
}

OtlpExporter::OtlpExporter(OtlpExporterOptions options, Metrics* metrics)
    : options_(std::move(options)),
      exported_(SpanCounter(metrics, "exported")),
      dropped_(SpanCounter(metrics, "dropped")),
      failed_(SpanCounter(metrics, "failed")),
      thread_([this] { Loop(); }) {}

OtlpExporter::~OtlpExporter() { Stop(absl::ZeroDuration()); }

void OtlpExporter::Take(std::shared_ptr<const CallTrace> trace) {
  const size_t spans = trace->spans().size();
  bool full;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    full = stopping_ || queued_spans_ + spans > options_.max_queued_spans;
    if (!full) {
      queued_spans_ += spans;
      queue_.push_back(std::move(trace));
      // Fewer are waited for, see NextBatch.
      if (queued_spans_ >= options_.batch_spans) changed_.notify_all();
    }
  }
  if (full) dropped_.Increment(static_cast<double>(spans));
}

void OtlpExporter::Stop(absl::Duration patience) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    stopping_ = true;
    changed_.notify_all();
    changed_.wait_for(lock, absl::ToChronoNanoseconds(patience), [this] { return done_; });
  }
  calls_.Stop();
  if (thread_.joinable()) thread_.join();
}

bool OtlpExporter::PauseFor(absl::Duration pause) {
  std::unique_lock<std::mutex> lock(mutex_);
  return changed_.wait_for(lock, absl::ToChronoNanoseconds(pause), [this] { return stopping_; });
}

void OtlpExporter::Loop() {
  while (true) {
    const Traces traces = NextBatch();
    if (traces.empty()) break;
    SendBatch(traces);
  }
  std::lock_guard<std::mutex> lock(mutex_);
  done_ = true;
  changed_.notify_all();
}

OtlpExporter::Traces OtlpExporter::NextBatch() {
  Traces traces;
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stopping_ && traces.empty()) {
    changed_.wait_for(lock, absl::ToChronoNanoseconds(options_.interval),
                      [this] { return stopping_ || queued_spans_ >= options_.batch_spans; });
    if (!queue_.empty()) break;
  }
  size_t spans = 0;
  while (!queue_.empty() && spans < options_.batch_spans) {
    spans += queue_.front()->spans().size();
    traces.push_back(std::move(queue_.front()));
    queue_.pop_front();
  }
  queued_spans_ -= spans;
  return traces;
}

void OtlpExporter::SendBatch(const Traces& traces) {
  const auto spans = static_cast<double>(SpansOf(traces));
  otlp::ExportTraceServiceRequest request;
  *request.add_resource_spans() = MakeResourceSpans(options_.process);
  otlp::ScopeSpans* const scope = request.mutable_resource_spans(0)->mutable_scope_spans(0);
  for (const auto& trace : traces) AddSpans(*trace, trace->spans(), scope);
  absl::Duration pause = options_.first_pause;
  while (true) {
    const absl::StatusOr<int64_t> rejected = Export(request);
    if (rejected.ok()) {
      const double lost = std::clamp(static_cast<double>(*rejected), 0.0, spans);
      exported_.Increment(spans - lost);
      if (lost > 0) failed_.Increment(lost);
      return;
    }
    const absl::Status& status = rejected.status();
    Warn(status);
    // Connects anew, with the certificates that there are then.
    channel_.reset();
    if (!MaySucceedLater(status)) return failed_.Increment(spans);
    if (PauseFor(std::max(pause, RetryDelay(status)))) return dropped_.Increment(spans);
    pause = std::min(2 * pause, options_.longest_pause);
  }
}

absl::StatusOr<int64_t> OtlpExporter::Export(const otlp::ExportTraceServiceRequest& request) {
  if (channel_ == nullptr) {
    absl::StatusOr<std::shared_ptr<grpc::Channel>> channel = Connect(options_);
    // A file that is being replaced may be readable in a moment.
    if (!channel.ok()) return absl::UnavailableError(channel.status().message());
    channel_ = *std::move(channel);
  }
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(options_.timeout));
  const StoppableCalls::Scope call(&calls_, &context);
  if (!call.ok()) return absl::CancelledError("stopping");
  otlp::ExportTraceServiceResponse response;
  const grpc::Status status = otlp::TraceService::NewStub(channel_)->Export(&context, request, &response);
  if (!status.ok()) return FromGrpcStatus(status);
  // Which ones is not said, and they may not be sent again.
  const int64_t rejected = response.partial_success().rejected_spans();
  if (rejected > 0) {
    Warn(absl::InvalidArgumentError(
        absl::StrCat("it rejected ", rejected, " spans: ", response.partial_success().error_message())));
  }
  return rejected;
}

void OtlpExporter::Warn(const absl::Status& status) {
  if (!warning_limit_.Due()) return;
  Log(Severity::kWarning, "traces_not_exported")
      .With("collector", options_.endpoint)
      .With("error", status)
      .With("advice", "requests are served as ever; their spans wait, and are dropped when there are too many");
}

}  // namespace baton
