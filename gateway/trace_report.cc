#include "gateway/trace_report.h"

#include <grpcpp/grpcpp.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <map>
#include <set>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/escaping.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

// A worker that takes longer to look something up is not there.
constexpr std::chrono::seconds kPatience{2};
// Clocks of two machines, at their worst.
constexpr uint64_t kSkewNanos = 5'000'000'000;
constexpr absl::string_view kServicePrefix = "baton-";

const char* KindName(otlp::Span::SpanKind kind) {
  if (kind == otlp::Span::SPAN_KIND_SERVER) return "server";
  return kind == otlp::Span::SPAN_KIND_CLIENT ? "client" : "internal";
}

void FillAttribute(const otlp::KeyValue& from, v1::TraceAttribute* to) {
  to->set_key(from.key());
  const otlp::AnyValue& value = from.value();
  switch (value.value_case()) {
    case otlp::AnyValue::kIntValue:
      return to->set_number(value.int_value());
    case otlp::AnyValue::kDoubleValue:
      return to->set_real(value.double_value());
    case otlp::AnyValue::kBoolValue:
      return to->set_flag(value.bool_value());
    case otlp::AnyValue::kArrayValue:
      return to->set_text(absl::StrJoin(
          value.array_value().values(), ",",
          [](std::string* out, const otlp::AnyValue& item) { absl::StrAppend(out, item.string_value()); }));
    default:
      return to->set_text(value.string_value());
  }
}

v1::TraceSpan ToReport(const otlp::Span& span, const otlp::Resource& resource, const std::string& endpoint) {
  v1::TraceSpan to;
  to.set_span_id(absl::BytesToHexString(span.span_id()));
  to.set_parent_span_id(absl::BytesToHexString(span.parent_span_id()));
  to.set_name(span.name());
  to.set_kind(KindName(span.kind()));
  const std::string service = StringAttribute(resource.attributes(), kServiceNameKey);
  to.set_role(absl::StartsWith(service, kServicePrefix) ? service.substr(kServicePrefix.size()) : service);
  to.set_boot_id(StringAttribute(resource.attributes(), kServiceInstanceKey));
  to.set_endpoint(endpoint);
  to.set_start_unix_nanos(span.start_time_unix_nano());
  to.set_end_unix_nanos(span.end_time_unix_nano());
  to.set_failed(span.status().code() == otlp::Status::STATUS_CODE_ERROR);
  to.set_error(span.status().message());
  for (const otlp::KeyValue& attribute : span.attributes()) FillAttribute(attribute, to.add_attributes());
  for (const otlp::Span::Event& event : span.events()) {
    v1::TraceEvent* const added = to.add_events();
    added->set_name(event.name());
    added->set_unix_nanos(event.time_unix_nano());
  }
  return to;
}

// Which spans belong to the request whose first span is `root`. Ids of requests are their clients' to choose, also
// twice in one trace: what hangs on a span of another request is not this one's.
class Belonging {
 public:
  Belonging(const otlp::Span& root, const otlp::ResourceSpans& own, const std::vector<WorkerSpans>& workers)
      : root_(root) {
    Add(own);
    for (const WorkerSpans& worker : workers) Add(worker.spans);
  }

  bool operator()(const otlp::Span& span) const {
    const otlp::Span* top = &span;
    // A worker that is not sane may tell of a circle.
    for (size_t steps = 0; steps <= spans_.size(); ++steps) {
      if (top->span_id() == root_.span_id()) return true;
      const auto parent = spans_.find(top->parent_span_id());
      if (parent == spans_.end()) return WhileItRan(*top);
      top = parent->second;
    }
    return false;
  }

 private:
  void Add(const otlp::ResourceSpans& resource) {
    for (const otlp::ScopeSpans& scope : resource.scope_spans()) {
      for (const otlp::Span& span : scope.spans()) spans_[span.span_id()] = &span;
    }
  }
  // Its parent went with its process.
  bool WhileItRan(const otlp::Span& span) const {
    if (span.trace_id() != root_.trace_id()) return false;
    const uint64_t end = root_.end_time_unix_nano();
    return span.start_time_unix_nano() + kSkewNanos >= root_.start_time_unix_nano() &&
           (end == 0 || span.start_time_unix_nano() <= end + kSkewNanos);
  }

  const otlp::Span& root_;
  absl::flat_hash_map<std::string, const otlp::Span*> spans_;
};

// Names the workers of whose parts there is nothing.
void FillMissing(const otlp::ResourceSpans& own, const std::vector<WorkerSpans>& workers,
                 v1::GetTraceResponse* response) {
  std::set<std::string> parents;
  for (const v1::TraceSpan& span : response->spans()) {
    if (span.kind() == "server") parents.insert(span.parent_span_id());
  }
  std::set<std::string> told;
  for (const otlp::Span& span : own.scope_spans(0).spans()) {
    if (span.kind() != otlp::Span::SPAN_KIND_CLIENT) continue;
    const std::string endpoint = StringAttribute(span.attributes(), kWorkerEndpointKey);
    if (parents.count(absl::BytesToHexString(span.span_id())) > 0 || !told.insert(endpoint).second) continue;
    const auto worker = std::find_if(workers.begin(), workers.end(),
                                     [&](const WorkerSpans& asked) { return asked.endpoint == endpoint; });
    v1::MissingSpans* const missing = response->add_missing();
    missing->set_endpoint(endpoint);
    if (worker == workers.end()) {
      missing->set_reason("this gateway does not know the worker any more");
    } else if (!worker->status.ok()) {
      missing->set_reason(absl::StrCat("the worker does not answer: ", worker->status.message()));
    } else {
      missing->set_reason(
          "the worker remembers nothing of it: it had not begun it, was restarted since, or has served many others "
          "(--trace-history)");
    }
  }
}

// The calls to the workers.
class Questions : public std::enable_shared_from_this<Questions> {
 public:
  Questions(std::string request_id, otlp::ResourceSpans own, v1::GetTraceResponse* response, std::function<void()> done)
      : request_id_(std::move(request_id)), own_(std::move(own)), response_(response), done_(std::move(done)) {}

  void Ask(const std::vector<std::shared_ptr<WorkerConnection>>& workers) {
    answers_ = std::vector<Answer>(workers.size());
    // One more, so that the last answer does not come before the last question.
    left_ = workers.size() + 1;
    for (size_t i = 0; i < workers.size(); ++i) {
      Answer& answer = answers_[i];
      answer.worker = workers[i];
      answer.context.set_deadline(std::chrono::system_clock::now() + kPatience);
      answer.request.set_request_id(request_id_);
      answer.request.set_trace_id(own_.scope_spans(0).spans(0).trace_id());
      workers[i]->worker->async()->GetSpans(&answer.context, &answer.request, &answer.response,
                                            [self = shared_from_this(), &answer](const grpc::Status& status) {
                                              answer.status = FromGrpcStatus(status);
                                              self->OneLess();
                                            });
    }
    OneLess();
  }

 private:
  struct Answer {
    std::shared_ptr<WorkerConnection> worker;
    grpc::ClientContext context;
    worker::v1::GetSpansRequest request;
    worker::v1::GetSpansResponse response;
    absl::Status status;
  };

  void OneLess() {
    if (left_.fetch_sub(1, std::memory_order_acq_rel) > 1) return;
    std::vector<WorkerSpans> workers;
    for (Answer& answer : answers_) {
      workers.push_back({answer.worker->endpoint, answer.status, std::move(*answer.response.mutable_spans())});
    }
    FillReport(request_id_, own_, workers, response_);
    done_();
  }

  const std::string request_id_;
  const otlp::ResourceSpans own_;
  v1::GetTraceResponse* const response_;
  const std::function<void()> done_;
  std::vector<Answer> answers_;
  std::atomic<size_t> left_{0};
};

}  // namespace

void FillReport(const std::string& request_id, const otlp::ResourceSpans& own, const std::vector<WorkerSpans>& workers,
                v1::GetTraceResponse* response) {
  const otlp::Span& root = own.scope_spans(0).spans(0);
  response->set_request_id(request_id);
  response->set_trace_id(absl::BytesToHexString(root.trace_id()));
  const Belonging belongs(root, own, workers);
  std::vector<v1::TraceSpan> spans;
  const auto add = [&](const otlp::ResourceSpans& resource, const std::string& endpoint) {
    for (const otlp::ScopeSpans& scope : resource.scope_spans()) {
      for (const otlp::Span& span : scope.spans()) {
        if (belongs(span)) spans.push_back(ToReport(span, resource.resource(), endpoint));
      }
    }
  };
  add(own, "");
  for (const WorkerSpans& worker : workers) add(worker.spans, worker.endpoint);
  std::stable_sort(spans.begin() + 1, spans.end(), [](const v1::TraceSpan& a, const v1::TraceSpan& b) {
    return a.start_unix_nanos() < b.start_unix_nanos();
  });
  for (v1::TraceSpan& span : spans) *response->add_spans() = std::move(span);
  FillMissing(own, workers, response);
}

void ReportTrace(const TraceProcess& process, const CallTrace& trace, const std::vector<WorkerSnapshot>& workers,
                 v1::GetTraceResponse* response, std::function<void()> done) {
  otlp::ResourceSpans own = MakeResourceSpans(process);
  AddSpans(trace, trace.Snapshot(), own.mutable_scope_spans(0));
  std::set<std::string> endpoints;
  for (const otlp::Span& span : own.scope_spans(0).spans()) {
    if (span.kind() != otlp::Span::SPAN_KIND_CLIENT) continue;
    endpoints.insert(StringAttribute(span.attributes(), kWorkerEndpointKey));
  }
  std::vector<std::shared_ptr<WorkerConnection>> connections;
  for (const WorkerSnapshot& worker : workers) {
    if (worker.connection != nullptr && endpoints.erase(worker.endpoint) > 0) connections.push_back(worker.connection);
  }
  std::make_shared<Questions>(trace.request_id(), std::move(own), response, std::move(done))->Ask(connections);
}

}  // namespace baton
