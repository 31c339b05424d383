// Traces of requests at a gateway with fake workers: what workers and clients are told, and what GetTrace answers.
#include <fstream>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"
#include "common/observe/trace_context.h"
#include "gateway/trace_report.h"
#include "tests/gateway/gateway_fixture.h"
#include "tests/temporary_directory.h"

namespace baton {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using ::testing::SizeIs;

using Metadata = std::vector<std::pair<std::string, std::string>>;

constexpr char kTrace[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kClientSpan[] = "00f067aa0ba902b7";

std::string Header(const char* flags = "01") { return absl::StrCat("00-", kTrace, "-", kClientSpan, "-", flags); }

std::string AttributeText(const v1::TraceSpan& span, const std::string& key) {
  for (const v1::TraceAttribute& attribute : span.attributes()) {
    if (attribute.key() == key) return attribute.has_number() ? absl::StrCat(attribute.number()) : attribute.text();
  }
  return "";
}

class TraceTest : public PairTest {
 protected:
  static constexpr int32_t kStopToken = 5;

  absl::StatusOr<v1::GetTraceResponse> GetTrace(const std::string& request_id, const Metadata& metadata = {}) {
    grpc::ClientContext context;
    for (const auto& [key, value] : metadata) context.AddMetadata(key, value);
    v1::GetTraceRequest request;
    request.set_request_id(request_id);
    v1::GetTraceResponse response;
    const grpc::Status status = fleet_->GetTrace(&context, request, &response);
    if (!status.ok()) return FromGrpcStatus(status);
    return response;
  }
  // A stream of this id that runs on both workers.
  Running Trace(const std::string& request_id, const Metadata& metadata = {}) {
    v1::GenerateRequest request = SimpleRequest();
    request.set_request_id(request_id);
    request.mutable_stopping()->add_stop_token_ids(kStopToken);
    Running running;
    running.client = std::make_unique<ClientStream>(stub_.get(), request, std::nullopt, metadata);
    running.decode = decode_.Take();
    running.decode->Push(Reserve(decode_, 1));
    running.prefill = prefill_.Take();
    return running;
  }
  static void Complete(Running& running) {
    running.prefill->Push(FirstAndLast(kStopToken, worker::v1::STOP_TOKEN));
    running.prefill->Push(PrefillDone());
    running.prefill->Finish();
    EXPECT_TRUE(running.client->Finish().ok());
  }
  static std::vector<v1::TraceSpan> Named(const v1::GetTraceResponse& response, const std::string& name) {
    std::vector<v1::TraceSpan> spans;
    for (const v1::TraceSpan& span : response.spans()) {
      if (span.name() == name) spans.push_back(span);
    }
    return spans;
  }
  static std::string TraceResponseOf(ClientStream& client) {
    const auto& metadata = client.context.GetServerInitialMetadata();
    const auto found = metadata.find("traceresponse");
    return found == metadata.end() ? "" : std::string(found->second.data(), found->second.size());
  }
};

TEST_F(TraceTest, ContextGoesInAndOut) {
  Running running = Trace("req-1", {{"traceparent", Header()}, {"tracestate", "a=1,b=2"}});
  const auto at_decode = ParseTraceparent(running.decode->traceparent);
  const auto at_prefill = ParseTraceparent(running.prefill->traceparent);
  ASSERT_TRUE(at_decode.has_value() && at_prefill.has_value());
  EXPECT_EQ(running.decode->tracestate, "a=1,b=2");
  EXPECT_EQ(running.prefill->tracestate, "a=1,b=2");
  Complete(running);
  const auto told = ParseTraceparent(TraceResponseOf(*running.client));
  ASSERT_TRUE(told.has_value());
  for (const auto& context : {*at_decode, *at_prefill, *told}) {
    EXPECT_EQ(ToHex(context.trace_id), kTrace);
    EXPECT_TRUE(context.sampled);
  }

  const auto trace = GetTrace("req-1");
  ASSERT_TRUE(trace.ok()) << trace.status();
  EXPECT_EQ(trace->trace_id(), kTrace);
  ASSERT_GE(trace->spans_size(), 6);
  const v1::TraceSpan& root = trace->spans(0);
  EXPECT_EQ(root.name(), "baton.v1.Inference/GenerateStream");
  EXPECT_EQ(root.kind(), "server");
  EXPECT_EQ(root.role(), "gateway");
  EXPECT_EQ(root.parent_span_id(), kClientSpan);
  EXPECT_EQ(root.span_id(), ToHex(told->span_id));
  EXPECT_FALSE(root.failed());
  EXPECT_GT(root.end_unix_nanos(), root.start_unix_nanos());
  EXPECT_EQ(AttributeText(root, "gen_ai.usage.input_tokens"), "4");
  EXPECT_EQ(AttributeText(root, "gen_ai.response.finish_reasons"), "stop");
  EXPECT_THAT(Named(*trace, "queue"), SizeIs(1));
  const auto attempts = Named(*trace, "attempt");
  ASSERT_THAT(attempts, SizeIs(1));
  EXPECT_EQ(attempts[0].parent_span_id(), root.span_id());
  const auto decode = Named(*trace, "baton.worker.v1.Decode/Run");
  const auto prefill = Named(*trace, "baton.worker.v1.Prefill/Run");
  ASSERT_THAT(decode, SizeIs(1));
  ASSERT_THAT(prefill, SizeIs(1));
  EXPECT_EQ(decode[0].span_id(), ToHex(at_decode->span_id));
  EXPECT_EQ(prefill[0].span_id(), ToHex(at_prefill->span_id));
  EXPECT_EQ(decode[0].parent_span_id(), attempts[0].span_id());
  EXPECT_EQ(AttributeText(decode[0], "server.address"), decode_.address());
  // These workers remember nothing.
  ASSERT_EQ(trace->missing_size(), 2);
  EXPECT_THAT(trace->missing(0).reason(), HasSubstr("--trace-history"));
}

TEST_F(TraceTest, ANewTraceWhereTheCallersIsNone) {
  for (const Metadata& metadata :
       {Metadata{}, Metadata{{"traceparent", "00-what"}, {"tracestate", "a=1"}},
        Metadata{{"traceparent", absl::StrCat("00-", std::string(32, '0'), "-", kClientSpan, "-01")}},
        Metadata{{"traceparent", Header()}, {"traceparent", Header()}}}) {
    Running running = Trace("req-new", metadata);
    const auto context = ParseTraceparent(running.decode->traceparent);
    ASSERT_TRUE(context.has_value());
    EXPECT_NE(ToHex(context->trace_id), kTrace);
    // There is no collector to send it to.
    EXPECT_FALSE(context->sampled);
    EXPECT_EQ(running.decode->tracestate, "");
    Complete(running);
    const auto trace = GetTrace("req-new");
    ASSERT_TRUE(trace.ok());
    EXPECT_EQ(trace->trace_id(), ToHex(context->trace_id)) << "the newest of equal ids";
    EXPECT_EQ(trace->spans(0).parent_span_id(), "");
  }
}

TEST_F(TraceTest, RunningRequestsAreSeen) {
  Running running = Trace("req-running");
  const auto trace = GetTrace("req-running");
  ASSERT_TRUE(trace.ok());
  EXPECT_EQ(trace->spans(0).end_unix_nanos(), 0u);
  Complete(running);
}

TEST_F(TraceTest, EachAttemptIsASpanWithItsReason) {
  Running running = Trace("req-retry");
  running.decode->Finish(Unavailable());
  running.decode = decode_.Take();
  ASSERT_NE(running.decode, nullptr);
  running.decode->Push(Reserve(decode_, 2));
  running.prefill = prefill_.Take();
  ASSERT_NE(running.prefill, nullptr);
  Complete(running);
  const auto trace = GetTrace("req-retry");
  ASSERT_TRUE(trace.ok());
  const auto attempts = Named(*trace, "attempt");
  ASSERT_THAT(attempts, SizeIs(2));
  EXPECT_EQ(AttributeText(attempts[0], "baton.attempt"), "1");
  EXPECT_TRUE(attempts[0].failed());
  EXPECT_EQ(AttributeText(attempts[0], "error.type"), "lost");
  EXPECT_EQ(AttributeText(attempts[0], "baton.stage"), "prefill");
  EXPECT_THAT(attempts[0].error(), HasSubstr(decode_.address()));
  EXPECT_EQ(AttributeText(attempts[1], "baton.attempt"), "2");
  EXPECT_FALSE(attempts[1].failed());
  EXPECT_LE(attempts[0].end_unix_nanos(), attempts[1].start_unix_nanos());
  EXPECT_THAT(Named(*trace, "find workers"), SizeIs(1));
  EXPECT_EQ(AttributeText(trace->spans(0), "baton.attempts"), "2");
}

TEST_F(TraceTest, FailedRequestsSayWhy) {
  v1::GenerateRequest request = SimpleRequest();
  request.set_request_id("req-bad");
  request.mutable_tokens()->add_ids(-7);
  EXPECT_TRUE(absl::IsInvalidArgument(Stream(request)->Finish()));
  const auto trace = GetTrace("req-bad");
  ASSERT_TRUE(trace.ok());
  EXPECT_TRUE(trace->spans(0).failed());
  EXPECT_EQ(trace->spans(0).error(), "invalid request");
  EXPECT_EQ(AttributeText(trace->spans(0), "baton.outcome"), "invalid");
  EXPECT_THAT(trace->ShortDebugString(), Not(HasSubstr("-7")));
}

TEST_F(TraceTest, UnknownRequests) {
  const absl::Status unknown = GetTrace("req-unknown").status();
  EXPECT_TRUE(absl::IsNotFound(unknown));
  EXPECT_EQ(ErrorReason(unknown), "TRACE_NOT_FOUND");
  EXPECT_THAT(std::string(unknown.message()), HasSubstr("--trace-history"));
  EXPECT_TRUE(absl::IsInvalidArgument(GetTrace("").status()));
  EXPECT_TRUE(absl::IsInvalidArgument(GetTrace(std::string(1000, 'x')).status()));
}

class NoHistoryTest : public TraceTest {
 protected:
  NoHistoryTest() { options_.tracing.history = 0; }
};

TEST_F(NoHistoryTest, OnlyPassesContextsOn) {
  Running running = Trace("req-1", {{"traceparent", Header()}, {"tracestate", "a=1"}});
  EXPECT_EQ(running.decode->traceparent, Header());
  EXPECT_EQ(running.prefill->tracestate, "a=1");
  Complete(running);
  EXPECT_EQ(TraceResponseOf(*running.client), "");
  EXPECT_EQ(ErrorReason(GetTrace("req-1").status()), "TRACE_HISTORY_OFF");
  Running other = Trace("req-2");
  EXPECT_EQ(other.decode->traceparent, "");
  Complete(other);
  EXPECT_EQ(TraceResponseOf(*other.client), "");
}

class KeyedTraceTest : public TraceTest {
 protected:
  KeyedTraceTest() {
    std::ofstream file(directory_.path() + "/keys");
    for (const char* name : {"alice", "bob"}) {
      file << name << " " << absl::BytesToHexString(Sha256(absl::StrCat("key-", name))) << "\n";
    }
    file << "ops " << absl::BytesToHexString(Sha256("key-ops")) << " operator=yes\n";
    file.close();
    options_.api_keys = directory_.path() + "/keys";
  }
  void SetUp() override {
    AddWorker(prefill_);
    AddWorker(decode_);
    StartGateway();
    ASSERT_TRUE(Eventually([&] {
      grpc::ClientContext context;
      context.AddMetadata("x-api-key", "key-ops");
      v1::GetStatusResponse status;
      if (!fleet_->GetStatus(&context, {}, &status).ok()) return false;
      int serving = 0;
      for (const auto& worker : status.workers()) serving += worker.state() == "SERVING" ? 1 : 0;
      return serving == 2;
    }));
  }
  static Metadata Key(const std::string& name) { return {{"x-api-key", absl::StrCat("key-", name)}}; }

  TemporaryDirectory directory_;
};

TEST_F(KeyedTraceTest, ClientsSeeTheirOwn) {
  Running of_alice = Trace("req-1", Key("alice"));
  Complete(of_alice);
  Running of_bob = Trace("req-2", Key("bob"));
  Complete(of_bob);
  EXPECT_TRUE(GetTrace("req-1", Key("alice")).ok());
  EXPECT_TRUE(GetTrace("req-2", Key("bob")).ok());
  EXPECT_EQ(ErrorReason(GetTrace("req-1", Key("bob")).status()), "TRACE_NOT_FOUND");
  EXPECT_EQ(ErrorReason(GetTrace("req-2", Key("alice")).status()), "TRACE_NOT_FOUND");
  EXPECT_TRUE(GetTrace("req-1", Key("ops")).ok());
  EXPECT_TRUE(absl::IsUnauthenticated(GetTrace("req-1").status()));
  EXPECT_TRUE(absl::IsUnauthenticated(GetTrace("req-1", Key("mallory")).status()));
}

// What FillReport makes of answers.
class ReportTest : public ::testing::Test {
 protected:
  static otlp::Span* Add(otlp::ResourceSpans* to, const std::string& id, const std::string& parent, uint64_t start,
                         uint64_t end, otlp::Span::SpanKind kind = otlp::Span::SPAN_KIND_INTERNAL) {
    otlp::Span* const span = to->mutable_scope_spans(0)->add_spans();
    span->set_trace_id(std::string(16, 't'));
    span->set_span_id(id);
    span->set_parent_span_id(parent);
    span->set_name(id);
    span->set_kind(kind);
    span->set_start_time_unix_nano(start);
    span->set_end_time_unix_nano(end);
    return span;
  }
  static std::vector<std::string> Names(const v1::GetTraceResponse& response) {
    std::vector<std::string> names;
    for (const v1::TraceSpan& span : response.spans()) names.push_back(span.name());
    return names;
  }

  static constexpr uint64_t kSecond = 1000000000;
  otlp::ResourceSpans own_ = MakeResourceSpans({"baton-gateway", "b1"});
  v1::GetTraceResponse response_;
};

TEST_F(ReportTest, JoinsByParentsAndLeavesOthersOut) {
  Add(&own_, "root", "client", 100 * kSecond, 110 * kSecond, otlp::Span::SPAN_KIND_SERVER);
  otlp::Span* const call = Add(&own_, "call", "root", 101 * kSecond, 109 * kSecond, otlp::Span::SPAN_KIND_CLIENT);
  otlp::KeyValue* const endpoint = call->add_attributes();
  endpoint->set_key(kWorkerEndpointKey);
  endpoint->mutable_value()->set_string_value("w:1");
  WorkerSpans worker{"w:1", absl::OkStatus(), MakeResourceSpans({"baton-decode", "b2"})};
  Add(&worker.spans, "served", "call", 102 * kSecond, 103 * kSecond, otlp::Span::SPAN_KIND_SERVER);
  Add(&worker.spans, "part", "served", 102 * kSecond, 103 * kSecond);
  // The parent died with its process.
  Add(&worker.spans, "orphan", "gone", 104 * kSecond, 105 * kSecond);
  // Another request of the same id and trace.
  Add(&worker.spans, "other", "elsewhere", 200 * kSecond, 205 * kSecond);
  Add(&worker.spans, "others part", "other", 200 * kSecond, 205 * kSecond);
  // Nonsense.
  Add(&worker.spans, "circle 1", "circle 2", 104 * kSecond, 105 * kSecond);
  Add(&worker.spans, "circle 2", "circle 1", 104 * kSecond, 105 * kSecond);
  FillReport("req", own_, {worker}, &response_);
  EXPECT_THAT(Names(response_), ElementsAre("root", "call", "served", "part", "orphan"));
  EXPECT_EQ(response_.spans(2).role(), "decode");
  EXPECT_EQ(response_.spans(2).endpoint(), "w:1");
  EXPECT_EQ(response_.spans(2).boot_id(), "b2");
  EXPECT_THAT(response_.missing(), IsEmpty());
}

TEST_F(ReportTest, NamesWhoCannotTell) {
  Add(&own_, "root", "", 100 * kSecond, 0, otlp::Span::SPAN_KIND_SERVER);
  for (const char* address : {"gone:1", "dead:1", "dead:1", "forgetful:1"}) {
    otlp::Span* const call =
        Add(&own_, absl::StrCat("call ", address), "root", 101 * kSecond, 0, otlp::Span::SPAN_KIND_CLIENT);
    otlp::KeyValue* const endpoint = call->add_attributes();
    endpoint->set_key(kWorkerEndpointKey);
    endpoint->mutable_value()->set_string_value(address);
  }
  FillReport("req", own_, {{"dead:1", absl::UnavailableError("refused"), {}}, {"forgetful:1", absl::OkStatus(), {}}},
             &response_);
  ASSERT_EQ(response_.missing_size(), 3);
  EXPECT_EQ(response_.missing(0).endpoint(), "gone:1");
  EXPECT_EQ(response_.missing(1).endpoint(), "dead:1");
  EXPECT_THAT(response_.missing(1).reason(), HasSubstr("refused"));
  EXPECT_EQ(response_.missing(2).endpoint(), "forgetful:1");
}

}  // namespace
}  // namespace baton
