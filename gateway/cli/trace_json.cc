#include "gateway/cli/trace_json.h"

#include <map>
#include <string>
#include <tuple>
#include <utility>

#include "absl/strings/str_cat.h"

namespace baton::cli {
namespace {

using v1::GetTraceResponse;
using v1::TraceSpan;

Json AttributeJson(const std::string& key, Json value) { return {{"key", key}, {"value", std::move(value)}}; }

Json SpanJson(const TraceSpan& span, const std::string& trace_id) {
  Json out;
  out["traceId"] = trace_id;
  out["spanId"] = span.span_id();
  if (!span.parent_span_id().empty()) out["parentSpanId"] = span.parent_span_id();
  out["name"] = span.name();
  // OpenTelemetry's numbers; 64-bit ones are strings in JSON.
  out["kind"] = span.kind() == "server" ? 2 : span.kind() == "client" ? 3 : 1;
  out["startTimeUnixNano"] = absl::StrCat(span.start_unix_nanos());
  out["endTimeUnixNano"] = absl::StrCat(span.end_unix_nanos());
  out["attributes"] = Json::array();
  for (const v1::TraceAttribute& attribute : span.attributes()) {
    Json value;
    switch (attribute.value_case()) {
      case v1::TraceAttribute::kNumber:
        value = {{"intValue", absl::StrCat(attribute.number())}};
        break;
      case v1::TraceAttribute::kReal:
        value = {{"doubleValue", attribute.real()}};
        break;
      case v1::TraceAttribute::kFlag:
        value = {{"boolValue", attribute.flag()}};
        break;
      default:
        value = {{"stringValue", attribute.text()}};
        break;
    }
    out["attributes"].push_back(AttributeJson(attribute.key(), std::move(value)));
  }
  out["events"] = Json::array();
  for (const v1::TraceEvent& event : span.events()) {
    out["events"].push_back({{"timeUnixNano", absl::StrCat(event.unix_nanos())}, {"name", event.name()}});
  }
  out["status"] = Json::object();
  if (span.failed()) out["status"] = {{"code", 2}, {"message", span.error()}};
  return out;
}

}  // namespace

Json TraceToJson(const GetTraceResponse& response) {
  Json out;
  out["request_id"] = response.request_id();
  out["trace_id"] = response.trace_id();
  out["resourceSpans"] = Json::array();
  std::map<std::tuple<std::string, std::string, std::string>, size_t> processes;
  for (const TraceSpan& span : response.spans()) {
    const auto [process, added] =
        processes.try_emplace({span.role(), span.endpoint(), span.boot_id()}, out["resourceSpans"].size());
    if (added) {
      Json attributes = Json::array();
      attributes.push_back(AttributeJson("service.name", {{"stringValue", absl::StrCat("baton-", span.role())}}));
      attributes.push_back(AttributeJson("service.instance.id", {{"stringValue", span.boot_id()}}));
      if (!span.endpoint().empty()) {
        attributes.push_back(AttributeJson("server.address", {{"stringValue", span.endpoint()}}));
      }
      Json scope;
      scope["scope"] = {{"name", "baton"}};
      scope["spans"] = Json::array();
      Json resource;
      resource["resource"] = {{"attributes", std::move(attributes)}};
      resource["scopeSpans"] = Json::array();
      resource["scopeSpans"].push_back(std::move(scope));
      out["resourceSpans"].push_back(std::move(resource));
    }
    out["resourceSpans"][process->second]["scopeSpans"][0]["spans"].push_back(SpanJson(span, response.trace_id()));
  }
  out["missing"] = Json::array();
  for (const v1::MissingSpans& missing : response.missing()) {
    out["missing"].push_back({{"endpoint", missing.endpoint()}, {"reason", missing.reason()}});
  }
  return out;
}

}  // namespace baton::cli
