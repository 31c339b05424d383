#include "common/rpc/otlp_exporter.h"

#include <chrono>
#include <condition_variable>
#include <mutex>

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "common/rpc/status_mapping.h"
#include "common/rpc/tracing.h"
#include "gtest/gtest.h"
#include "otlp/trace.grpc.pb.h"
#include "tests/eventually.h"

namespace baton {
namespace {

// A collector in this process.
class FakeCollector final : public otlp::TraceService::Service {
 public:
  explicit FakeCollector(int port = 0) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
  }
  ~FakeCollector() override { Stop(); }
  void Stop() {
    SetHanging(false);
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }

  int port() const { return port_; }
  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  // Answers of the next calls, in order; then OK.
  void Answer(std::vector<absl::Status> statuses) {
    std::lock_guard<std::mutex> lock(mutex_);
    answers_ = std::move(statuses);
  }
  void Reject(int64_t spans) {
    std::lock_guard<std::mutex> lock(mutex_);
    rejected_ = spans;
  }
  void SetHanging(bool hanging) {
    std::lock_guard<std::mutex> lock(mutex_);
    hanging_ = hanging;
    changed_.notify_all();
  }
  std::vector<otlp::ExportTraceServiceRequest> requests() {
    std::lock_guard<std::mutex> lock(mutex_);
    return requests_;
  }
  int calls() {
    std::lock_guard<std::mutex> lock(mutex_);
    return calls_;
  }
  int spans() {
    int spans = 0;
    for (const auto& request : requests()) {
      for (const auto& resource : request.resource_spans()) spans += resource.scope_spans(0).spans_size();
    }
    return spans;
  }

  grpc::Status Export(grpc::ServerContext* context, const otlp::ExportTraceServiceRequest* request,
                      otlp::ExportTraceServiceResponse* response) override {
    std::unique_lock<std::mutex> lock(mutex_);
    ++calls_;
    changed_.wait(lock, [this] { return !hanging_; });
    if (!answers_.empty()) {
      const absl::Status answer = answers_.front();
      answers_.erase(answers_.begin());
      if (!answer.ok()) return ToGrpcStatus(answer);
    }
    requests_.push_back(*request);
    if (rejected_ > 0) response->mutable_partial_success()->set_rejected_spans(rejected_);
    return grpc::Status::OK;
  }

 private:
  int port_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<absl::Status> answers_;
  int64_t rejected_ = 0;
  bool hanging_ = false;
  int calls_ = 0;
  std::vector<otlp::ExportTraceServiceRequest> requests_;
  std::unique_ptr<grpc::Server> server_;
};

class OtlpExporterTest : public testing::Test {
 protected:
  void Start(const std::string& endpoint, OtlpExporterOptions options = {}) {
    options.endpoint = endpoint;
    options.process = {"baton-decode", "b00t"};
    options.interval = absl::Milliseconds(5);
    options.first_pause = absl::Milliseconds(5);
    options.longest_pause = absl::Milliseconds(20);
    exporter_ = OtlpExporter::Start(options, &metrics_);
    tracer_ = Tracer::Create({.ratio = 1, .sink = exporter_});
  }
  // A call with one part.
  void Trace() {
    const Span call = tracer_->Begin("call", absl::nullopt, "req-1");
    const Span part = call.Child("part", SpanKind::kClient);
    part.Set("text", "value");
    part.Set("number", 7);
    part.Set("real", 0.5);
    part.Set("flag", true);
    part.SetList("list", "item");
    part.Event("moment");
    part.Fail("why");
    part.End();
    call.End();
  }
  double Count(const char* result) {
    return metrics_.AddCounter("baton_trace_spans_total", "", {{"result", result}}).Value();
  }

  Metrics metrics_{"decode"};
  std::shared_ptr<OtlpExporter> exporter_;
  std::shared_ptr<Tracer> tracer_;
};

TEST_F(OtlpExporterTest, SendsWhatWasRecorded) {
  FakeCollector collector;
  Start(collector.address());
  Trace();
  ASSERT_TRUE(Eventually([&] { return Count("exported") == 2; }));
  const auto requests = collector.requests();
  ASSERT_EQ(requests.size(), 1u);
  const otlp::ResourceSpans& resource = requests[0].resource_spans(0);
  EXPECT_EQ(StringAttribute(resource.resource().attributes(), "service.name"), "baton-decode");
  EXPECT_EQ(StringAttribute(resource.resource().attributes(), "service.instance.id"), "b00t");
  EXPECT_NE(StringAttribute(resource.resource().attributes(), "service.version"), "");
  const auto& spans = resource.scope_spans(0).spans();
  ASSERT_EQ(spans.size(), 2);
  EXPECT_EQ(spans[0].name(), "call");
  EXPECT_EQ(spans[0].kind(), otlp::Span::SPAN_KIND_SERVER);
  EXPECT_EQ(spans[0].trace_id().size(), 16u);
  EXPECT_TRUE(spans[0].parent_span_id().empty());
  EXPECT_EQ(spans[0].flags(), 1u);
  EXPECT_EQ(spans[0].status().code(), otlp::Status::STATUS_CODE_UNSET);
  const otlp::Span& part = spans[1];
  EXPECT_EQ(part.trace_id(), spans[0].trace_id());
  EXPECT_EQ(part.parent_span_id(), spans[0].span_id());
  EXPECT_EQ(part.span_id().size(), 8u);
  EXPECT_EQ(part.kind(), otlp::Span::SPAN_KIND_CLIENT);
  EXPECT_GE(part.end_time_unix_nano(), part.start_time_unix_nano());
  ASSERT_EQ(part.attributes_size(), 5);
  EXPECT_EQ(part.attributes(0).value().string_value(), "value");
  EXPECT_EQ(part.attributes(1).value().int_value(), 7);
  EXPECT_EQ(part.attributes(2).value().double_value(), 0.5);
  EXPECT_TRUE(part.attributes(3).value().bool_value());
  EXPECT_EQ(part.attributes(4).value().array_value().values(0).string_value(), "item");
  ASSERT_EQ(part.events_size(), 1);
  EXPECT_EQ(part.events(0).name(), "moment");
  EXPECT_EQ(part.status().code(), otlp::Status::STATUS_CODE_ERROR);
  EXPECT_EQ(part.status().message(), "why");
}

TEST_F(OtlpExporterTest, StopSendsWhatWaits) {
  FakeCollector collector;
  OtlpExporterOptions options;
  options.batch_spans = 4;
  Start(collector.address(), options);
  for (int i = 0; i < 50; ++i) Trace();
  exporter_->Stop(kTestTimeout);
  EXPECT_EQ(collector.spans(), 100);
  EXPECT_EQ(Count("exported"), 100);
  for (const auto& request : collector.requests()) {
    EXPECT_LE(request.resource_spans(0).scope_spans(0).spans_size(), 4);
  }
  // What comes later is not waited for.
  Trace();
  EXPECT_EQ(Count("dropped"), 2);
}

TEST_F(OtlpExporterTest, TriesAgainWhatMaySucceedLater) {
  FakeCollector collector;
  collector.Answer({absl::UnavailableError("starting"),
                    WithRetryAfter(absl::ResourceExhaustedError("busy"), absl::Milliseconds(1), "BUSY")});
  Start(collector.address());
  Trace();
  ASSERT_TRUE(Eventually([&] { return Count("exported") == 2; }));
  EXPECT_EQ(collector.calls(), 3);
  EXPECT_EQ(Count("failed"), 0);
}

TEST_F(OtlpExporterTest, CountsWhatTheCollectorDoesNotTake) {
  FakeCollector collector;
  collector.Answer({absl::InvalidArgumentError("no")});
  Start(collector.address());
  Trace();
  ASSERT_TRUE(Eventually([&] { return Count("failed") == 2; }));
  EXPECT_EQ(collector.calls(), 1);
  collector.Reject(1);
  Trace();
  ASSERT_TRUE(Eventually([&] { return Count("failed") == 3; }));
  EXPECT_EQ(Count("exported"), 1);
}

TEST_F(OtlpExporterTest, ADeadCollectorCostsSpansOnly) {
  std::string address;
  {
    const FakeCollector collector;
    address = collector.address();
  }
  OtlpExporterOptions options;
  options.max_queued_spans = 10;
  Start(address, options);
  for (int i = 0; i < 1000; ++i) Trace();
  EXPECT_GE(Count("dropped"), 2000 - 2 * 10 - static_cast<double>(options.batch_spans));
  exporter_->Stop(absl::ZeroDuration());
  EXPECT_EQ(Count("dropped"), 2000);
  EXPECT_EQ(Count("exported"), 0);
}

TEST_F(OtlpExporterTest, ACollectorThatComesLaterGetsWhatWaits) {
  int port;
  {
    const FakeCollector collector;
    port = collector.port();
  }
  Start(absl::StrCat("127.0.0.1:", port));
  Trace();
  FakeCollector collector(port);
  ASSERT_TRUE(Eventually([&] { return Count("exported") == 2; }));
  EXPECT_EQ(collector.spans(), 2);
}

TEST_F(OtlpExporterTest, AHangingCollectorHoldsNobodyUp) {
  FakeCollector collector;
  collector.SetHanging(true);
  OtlpExporterOptions options;
  options.max_queued_spans = 10;
  options.timeout = absl::Hours(1);
  Start(collector.address(), options);
  Trace();
  ASSERT_TRUE(Eventually([&] { return collector.calls() == 1; }));
  for (int i = 0; i < 100; ++i) Trace();
  EXPECT_EQ(Count("dropped"), 200 - 10);
  // Its call would go on for an hour.
  exporter_->Stop(absl::Milliseconds(1));
  EXPECT_EQ(Count("dropped"), 202);
}

TEST(TracingTest, FlagsAreChecked) {
  Metrics metrics("gateway");
  TracingFlags flags;
  flags.tls.cert = "cert.pem";
  EXPECT_TRUE(absl::IsInvalidArgument(Tracing::Create(flags, {}, &metrics).status()));
  flags.tls.key = "key.pem";
  EXPECT_TRUE(absl::IsInvalidArgument(Tracing::Create(flags, {}, &metrics).status()));
  flags = {};
  flags.tls.ca = "/nowhere/ca.pem";
  EXPECT_TRUE(absl::IsInvalidArgument(Tracing::Create(flags, {}, &metrics).status()));
  flags.endpoint = "127.0.0.1:1";
  EXPECT_FALSE(Tracing::Create(flags, {}, &metrics).ok());
  EXPECT_TRUE(Tracing::Create({}, {}, &metrics).ok());
}

TEST(TracingTest, RemembersByRequestAndTrace) {
  const auto tracing = Tracing::WithHistoryOnly({"baton-prefill", "b00t"});
  const Span first = tracing->tracer().Begin("first", absl::nullopt, "req-1");
  const Span second = tracing->tracer().Begin("second", absl::nullopt, "req-1");
  EXPECT_EQ(tracing->Remembered("req-1", "").scope_spans(0).spans_size(), 2);
  const TraceId& id = first.trace()->trace_id();
  const otlp::ResourceSpans one =
      tracing->Remembered("req-1", std::string(reinterpret_cast<const char*>(id.data()), id.size()));
  ASSERT_EQ(one.scope_spans(0).spans_size(), 1);
  EXPECT_EQ(one.scope_spans(0).spans(0).name(), "first");
  EXPECT_EQ(one.scope_spans(0).spans(0).end_time_unix_nano(), 0u);
  EXPECT_EQ(tracing->Remembered("req-1", "short").scope_spans(0).spans_size(), 0);
  EXPECT_EQ(tracing->Remembered("req-2", "").scope_spans(0).spans_size(), 0);
}

}  // namespace
}  // namespace baton
