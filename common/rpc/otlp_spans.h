// Recorded spans as OpenTelemetry's messages: what goes to collectors, and between our processes.
#pragma once

#include <string>
#include <vector>

#include "common/observe/tracer.h"
#include "otlp/trace.pb.h"

namespace baton {

namespace otlp = ::opentelemetry::proto::collector::trace::v1;

// Which process spans are of, by OpenTelemetry's conventions for resources.
struct TraceProcess {
  // "baton-gateway", "baton-prefill", "baton-decode".
  std::string service;
  std::string boot_id;
};

inline constexpr char kServiceNameKey[] = "service.name";
inline constexpr char kServiceInstanceKey[] = "service.instance.id";

// With its one, empty, list of spans.
otlp::ResourceSpans MakeResourceSpans(const TraceProcess& process);
// `spans`: of `trace`.
void AddSpans(const CallTrace& trace, const std::vector<SpanRecord>& spans, otlp::ScopeSpans* out);
// Empty when there is none of this key, or it is no string.
std::string StringAttribute(const google::protobuf::RepeatedPtrField<otlp::KeyValue>& attributes, const char* key);

}  // namespace baton
