#include "common/rpc/otlp_spans.h"

#include <utility>

#include "common/base/version.h"

namespace baton {
namespace {

template <typename Id>
std::string Bytes(const Id& id) {
  return std::string(reinterpret_cast<const char*>(id.data()), id.size());
}

otlp::Span::SpanKind ToOtlp(SpanKind kind) {
  switch (kind) {
    case SpanKind::kInternal:
      return otlp::Span::SPAN_KIND_INTERNAL;
    case SpanKind::kServer:
      return otlp::Span::SPAN_KIND_SERVER;
    case SpanKind::kClient:
      return otlp::Span::SPAN_KIND_CLIENT;
  }
  return otlp::Span::SPAN_KIND_UNSPECIFIED;
}

void ToOtlp(const SpanAttribute& attribute, otlp::KeyValue* out) {
  out->set_key(attribute.key);
  switch (attribute.kind) {
    case SpanAttribute::Kind::kNumber:
      return out->mutable_value()->set_int_value(attribute.number);
    case SpanAttribute::Kind::kReal:
      return out->mutable_value()->set_double_value(attribute.real);
    case SpanAttribute::Kind::kFlag:
      return out->mutable_value()->set_bool_value(attribute.number != 0);
    case SpanAttribute::Kind::kText:
      return out->mutable_value()->set_string_value(attribute.text);
    case SpanAttribute::Kind::kList:
      return out->mutable_value()->mutable_array_value()->add_values()->set_string_value(attribute.text);
  }
}

void AddString(const char* key, const std::string& value, otlp::Resource* resource) {
  otlp::KeyValue* const attribute = resource->add_attributes();
  attribute->set_key(key);
  attribute->mutable_value()->set_string_value(value);
}

}  // namespace

otlp::ResourceSpans MakeResourceSpans(const TraceProcess& process) {
  otlp::ResourceSpans spans;
  AddString(kServiceNameKey, process.service, spans.mutable_resource());
  AddString(kServiceInstanceKey, process.boot_id, spans.mutable_resource());
  AddString("service.version", kVersion, spans.mutable_resource());
  otlp::InstrumentationScope* const scope = spans.add_scope_spans()->mutable_scope();
  scope->set_name("baton");
  scope->set_version(kVersion);
  return spans;
}

void AddSpans(const CallTrace& trace, const std::vector<SpanRecord>& spans, otlp::ScopeSpans* out) {
  for (const SpanRecord& span : spans) {
    otlp::Span* const to = out->add_spans();
    to->set_trace_id(Bytes(trace.trace_id()));
    to->set_span_id(Bytes(span.id));
    to->set_trace_state(trace.trace_state());
    if (IsSet(span.parent)) to->set_parent_span_id(Bytes(span.parent));
    to->set_flags(trace.sampled() ? 1 : 0);
    to->set_name(span.name);
    to->set_kind(ToOtlp(span.kind));
    to->set_start_time_unix_nano(static_cast<uint64_t>(span.start_unix_nanos));
    to->set_end_time_unix_nano(static_cast<uint64_t>(span.end_unix_nanos));
    for (const SpanAttribute& attribute : span.attributes) ToOtlp(attribute, to->add_attributes());
    for (const SpanEvent& event : span.events) {
      otlp::Span::Event* const added = to->add_events();
      added->set_name(event.name);
      added->set_time_unix_nano(static_cast<uint64_t>(event.unix_nanos));
    }
    if (!span.failed) continue;
    to->mutable_status()->set_code(otlp::Status::STATUS_CODE_ERROR);
    to->mutable_status()->set_message(span.error);
  }
}

std::string StringAttribute(const google::protobuf::RepeatedPtrField<otlp::KeyValue>& attributes, const char* key) {
  for (const otlp::KeyValue& attribute : attributes) {
    if (attribute.key() == key) return attribute.value().string_value();
  }
  return "";
}

}  // namespace baton
