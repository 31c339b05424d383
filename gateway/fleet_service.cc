#include "gateway/fleet_service.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/version.h"
#include "common/rpc/status_mapping.h"
#include "gateway/request_check.h"
#include "gateway/trace_report.h"

namespace baton {
namespace {

absl::Status OperatorsOnly(const std::string& client) {
  return WithReason(absl::PermissionDeniedError(absl::StrCat("the fleet is for operators: the API key of ", client,
                                                             " has no operator=yes in its line")),
                    "OPERATORS_ONLY");
}

bool IsOperator(const Caller& caller) { return caller.client == nullptr || caller.client->limits()->is_operator; }

}  // namespace

grpc::ServerUnaryReactor* FleetService::GetStatus(grpc::CallbackServerContext* context,
                                                  const v1::GetStatusRequest* request,
                                                  v1::GetStatusResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const absl::StatusOr<Caller> caller = authenticator_->Authenticate(context->client_metadata(), context->peer());
  if (!caller.ok() || !IsOperator(*caller)) {
    reactor->Finish(ToGrpcStatus(caller.ok() ? OperatorsOnly(caller->client->name()) : caller.status()));
    return reactor;
  }
  const Clock::time_point now = Clock::now();
  response->set_gateway_version(kVersion);
  response->set_uptime_seconds(SecondsBetween(started_, now));
  response->set_queued_requests(queue_->waiting());
  response->set_running_requests(queue_->running());
  for (const WorkerSnapshot& snapshot : registry_->Workers()) {
    v1::WorkerStatus* const status = response->add_workers();
    status->set_endpoint(snapshot.endpoint);
    status->set_role(StageName(snapshot.stage));
    status->set_state(WorkerStateName(snapshot.state));
    if (snapshot.info != nullptr) {
      status->set_model(snapshot.info->model_name());
      status->set_boot_id(snapshot.info->boot_id());
    }
    // What an absent worker last said of itself is history.
    const bool present = snapshot.state == WorkerState::kServing || snapshot.state == WorkerState::kDraining;
    if (!present) continue;
    status->set_running(snapshot.load.running());
    status->set_queued(snapshot.load.queued());
    status->set_queued_tokens(snapshot.load.queued_tokens());
    status->set_state_bytes_used(snapshot.load.state_bytes_used());
    status->set_state_bytes_total(snapshot.load.state_bytes_total());
    status->set_tokens_per_second(snapshot.load.tokens_per_second());
    if (snapshot.prefixes != nullptr) status->set_cached_prefixes(static_cast<int64_t>(snapshot.prefixes->size()));
    status->set_uptime_seconds(snapshot.info->uptime_seconds() + SecondsBetween(snapshot.info_time, now));
  }
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

absl::StatusOr<std::shared_ptr<const CallTrace>> FleetService::FindTrace(const grpc::CallbackServerContext& context,
                                                                         const std::string& request_id) const {
  BATON_ASSIGN_OR_RETURN(const Caller caller, authenticator_->Authenticate(context.client_metadata(), context.peer()));
  if (request_id.empty() || !IsRequestId(request_id)) {
    return BadRequestError({{"request_id", "must be 1 to 128 bytes of printable ASCII"}});
  }
  const TraceHistory& history = tracing_->tracer().history();
  if (!history.enabled()) {
    return WithReason(absl::FailedPreconditionError("this gateway remembers no requests (--trace-history 0)"),
                      "TRACE_HISTORY_OFF");
  }
  for (const std::shared_ptr<const CallTrace>& trace : history.Find(request_id)) {
    if (IsOperator(caller) || trace->owner() == caller.identity) return trace;
  }
  return WithReason(
      absl::NotFoundError(absl::StrCat("no request \"", request_id,
                                       "\" among the last that this gateway has served (--trace-history of the gateway "
                                       "says how many it remembers; another gateway knows its own)")),
      "TRACE_NOT_FOUND");
}

grpc::ServerUnaryReactor* FleetService::GetTrace(grpc::CallbackServerContext* context,
                                                 const v1::GetTraceRequest* request, v1::GetTraceResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const absl::StatusOr<std::shared_ptr<const CallTrace>> trace = FindTrace(*context, request->request_id());
  if (!trace.ok()) {
    reactor->Finish(ToGrpcStatus(trace.status()));
  } else {
    ReportTrace(tracing_->process(), **trace, registry_->Workers(), response,
                [reactor] { reactor->Finish(grpc::Status::OK); });
  }
  return reactor;
}

}  // namespace baton
