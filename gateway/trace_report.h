// The timeline of one request, put together from what the processes that worked on it remember: the gateway's own spans
// say which workers had a part, those are asked, and what belongs to the request goes into one answer. Whoever is gone,
// or has forgotten it, is named.
//
//   ReportTrace(tracing->process(), trace, registry.Workers(), &response, [=] { reactor->Finish(...); });
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "baton/v1/inference.pb.h"
#include "common/observe/tracer.h"
#include "common/rpc/otlp_spans.h"
#include "gateway/fleet.h"

namespace baton {

// Of spans of calls to workers: which one.
inline constexpr char kWorkerEndpointKey[] = "server.address";

// What one worker answered.
struct WorkerSpans {
  std::string endpoint;
  // Why there is no answer.
  absl::Status status;
  otlp::ResourceSpans spans;
};

// The answer, once all that were asked have answered. `own`: the gateway's; its first span is the whole request's.
void FillReport(const std::string& request_id, const otlp::ResourceSpans& own, const std::vector<WorkerSpans>& workers,
                v1::GetTraceResponse* response);

// Asks the workers that `trace`, the gateway's, names. Calls `done` exactly once, on one of gRPC's threads or before it
// returns; `response` must live until then.
void ReportTrace(const TraceProcess& process, const CallTrace& trace, const std::vector<WorkerSnapshot>& workers,
                 v1::GetTraceResponse* response, std::function<void()> done);

}  // namespace baton
