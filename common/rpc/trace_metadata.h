// Trace context in the metadata of calls.
//
//   Span span = tracer->Begin(name, TraceParent(context->client_metadata()), request_id);    // in a server
//   AddTraceContext(span, &client_context);                                                  // in a client
#pragma once

#include <map>

#include <grpcpp/client_context.h>
#include <grpcpp/support/string_ref.h>

#include "absl/types/optional.h"
#include "common/observe/tracer.h"

namespace baton {

// What the caller says; absent when that is nothing, malformed, or said twice.
absl::optional<TraceContext> TraceParent(const std::multimap<grpc::string_ref, grpc::string_ref>& metadata);

// Before the call begins. Nothing for a handle of no trace.
void AddTraceContext(const Span& span, grpc::ClientContext* context);

}  // namespace baton
