#include "gateway/fleet_service.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/base/version.h"
#include "common/rpc/status_mapping.h"
#include "common/text/utf8.h"
#include "gateway/request_check.h"
#include "gateway/trace_report.h"

namespace baton {
namespace {

constexpr double kDefaultWindowSeconds = 10;

// As far as people need it, for a field that must be UTF-8.
std::string Readable(const std::string& problem) {
  constexpr size_t kMaxBytes = 512;
  std::string bytes = problem.substr(0, kMaxBytes);
  std::string text;
  MoveUtf8(bytes, text, /*flush=*/true);
  return text;
}

absl::Status OperatorsOnly(const std::string& client) {
  return WithReason(absl::PermissionDeniedError(absl::StrCat("the fleet is for operators: the API key of ", client,
                                                             " has no operator=yes in its line")),
                    "OPERATORS_ONLY");
}

bool IsOperator(const Caller& caller) { return caller.client == nullptr || caller.client->limits()->is_operator; }

}  // namespace

void FleetService::Describe(const WorkerSnapshot& snapshot, Clock::duration window, Clock::time_point now,
                            v1::WorkerStatus* status) const {
  status->set_endpoint(snapshot.endpoint);
  status->set_role(StageName(snapshot.stage));
  status->set_state(WorkerStateName(snapshot.state));
  status->set_problem(Readable(snapshot.problem));
  if (snapshot.info != nullptr) {
    status->set_model(snapshot.info->model_name());
    status->set_boot_id(snapshot.info->boot_id());
  }
  if (snapshot.load_time != Clock::time_point::min()) {
    status->set_silent_seconds(std::max(0.0, SecondsBetween(snapshot.load_time, now)));
  }
  // What an absent worker last said of itself is history.
  const bool present = snapshot.state == WorkerState::kServing || snapshot.state == WorkerState::kDraining;
  if (!present) return;
  const worker::v1::Load& load = snapshot.load;
  status->set_running(load.running());
  status->set_queued(load.queued());
  status->set_queued_tokens(load.queued_tokens());
  status->set_state_bytes_used(load.state_bytes_used());
  status->set_state_bytes_total(load.state_bytes_total());
  status->set_tokens_per_second(load.tokens_per_second());
  if (snapshot.prefixes != nullptr) status->set_cached_prefixes(static_cast<int64_t>(snapshot.prefixes->size()));
  status->set_uptime_seconds(snapshot.info->uptime_seconds() + SecondsBetween(snapshot.info_time, now));
  status->set_kept_sessions(load.kept_sessions());
  status->set_kept_session_bytes(load.kept_session_bytes());
  status->set_checkpoints(load.checkpoints());
  status->set_checkpoint_bytes(load.checkpoint_bytes());
  const WorkerPause pause = router_->PauseOf(snapshot.stage, snapshot.endpoint);
  status->set_paused(pause.paused);
  status->set_pause_seconds(std::chrono::duration<double>(pause.left).count());
  const WorkerRates rates = activity_->RatesOf(snapshot, window);
  status->set_steps_per_second(rates.steps_per_second);
  status->set_sequences_per_step(rates.sequences_per_step);
  if (rates.cached_prompt_share.has_value()) status->set_cached_prompt_share(*rates.cached_prompt_share);
}

grpc::ServerUnaryReactor* FleetService::GetStatus(grpc::CallbackServerContext* context,
                                                  const v1::GetStatusRequest* request,
                                                  v1::GetStatusResponse* response) {
  grpc::ServerUnaryReactor* const reactor = context->DefaultReactor();
  const absl::StatusOr<Caller> caller = authenticator_->Authenticate(context->client_metadata(), context->peer());
  if (!caller.ok() || !IsOperator(*caller)) {
    reactor->Finish(ToGrpcStatus(caller.ok() ? OperatorsOnly(caller->client->name()) : caller.status()));
    return reactor;
  }
  const double asked = request->has_window_seconds() ? request->window_seconds() : kDefaultWindowSeconds;
  if (!(asked >= 1 && asked <= static_cast<double>(FleetActivity::kLongestWindow.count()))) {
    reactor->Finish(ToGrpcStatus(BadRequestError({{"window_seconds", "must be in [1, 60]"}})));
    return reactor;
  }
  const auto window = std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(asked));
  const Clock::time_point now = Clock::now();
  const AdmissionOptions& limits = queue_->options();
  response->set_gateway_version(kVersion);
  response->set_uptime_seconds(SecondsBetween(started_, now));
  response->set_queued_requests(queue_->waiting());
  response->set_running_requests(queue_->running());
  response->set_queued_tokens(queue_->waiting_tokens());
  response->set_running_requests_limit(limits.max_running);
  response->set_queued_requests_limit(limits.max_queue);
  response->set_queued_tokens_limit(limits.max_queue_tokens);
  activity_->Describe(window, now, response);
  for (const WorkerSnapshot& snapshot : registry_->Workers()) Describe(snapshot, window, now, response->add_workers());
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
