// A trace as other programs read it.
#pragma once

#include "baton/v1/inference.pb.h"
#include "gateway/cli/json_output.h"

namespace baton::cli {

// As OpenTelemetry's JSON for files and collectors ({"resourceSpans": ...}), with request_id, trace_id and missing
// beside it.
Json TraceToJson(const v1::GetTraceResponse& response);

}  // namespace baton::cli
