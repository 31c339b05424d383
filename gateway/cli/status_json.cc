#include "gateway/cli/status_json.h"

namespace baton::cli {
namespace {

Json ToJson(const v1::LatencySummary& latency) {
  return {{"count", latency.count()}, {"p50_seconds", latency.p50_seconds()}, {"p99_seconds", latency.p99_seconds()}};
}

Json ToJson(const v1::Activity& activity) {
  return {{"seconds", activity.seconds()},
          {"completed", activity.completed()},
          {"cancelled", activity.cancelled()},
          {"refused", activity.refused()},
          {"rejected", activity.rejected()},
          {"failed", activity.failed()},
          {"prompt_tokens", activity.prompt_tokens()},
          {"output_tokens", activity.output_tokens()},
          {"resumes", activity.resumes()},
          {"retries", activity.retries()},
          {"worker_pauses", activity.worker_pauses()},
          {"time_to_first_token", ToJson(activity.time_to_first_token())},
          {"inter_token", ToJson(activity.inter_token())}};
}

Json ToJson(const v1::WorkerStatus& worker) {
  Json out = {{"endpoint", worker.endpoint()},
              {"role", worker.role()},
              {"model", worker.model()},
              {"state", worker.state()},
              {"problem", worker.problem()},
              {"boot_id", worker.boot_id()},
              {"running", worker.running()},
              {"queued", worker.queued()},
              {"queued_tokens", worker.queued_tokens()},
              {"state_bytes_used", worker.state_bytes_used()},
              {"state_bytes_total", worker.state_bytes_total()},
              {"tokens_per_second", worker.tokens_per_second()},
              {"steps_per_second", worker.steps_per_second()},
              {"sequences_per_step", worker.sequences_per_step()},
              {"cached_prefixes", worker.cached_prefixes()},
              {"kept_sessions", worker.kept_sessions()},
              {"kept_session_bytes", worker.kept_session_bytes()},
              {"checkpoints", worker.checkpoints()},
              {"checkpoint_bytes", worker.checkpoint_bytes()},
              {"paused", worker.paused()},
              {"pause_seconds", worker.pause_seconds()},
              {"uptime_seconds", worker.uptime_seconds()}};
  if (worker.has_cached_prompt_share()) out["cached_prompt_share"] = worker.cached_prompt_share();
  if (worker.has_silent_seconds()) out["silent_seconds"] = worker.silent_seconds();
  return out;
}

}  // namespace

Json ToJson(const v1::GetStatusResponse& response) {
  Json models = Json::array();
  for (const v1::ModelStatus& model : response.models()) {
    models.push_back({{"model", model.model()},
                      {"queued_requests", model.queued_requests()},
                      {"running_requests", model.running_requests()},
                      {"recent", ToJson(model.recent())},
                      {"since_start", ToJson(model.since_start())}});
  }
  Json workers = Json::array();
  for (const v1::WorkerStatus& worker : response.workers()) workers.push_back(ToJson(worker));
  return {{"gateway_version", response.gateway_version()},
          {"uptime_seconds", response.uptime_seconds()},
          {"queued_requests", response.queued_requests()},
          {"queued_requests_limit", response.queued_requests_limit()},
          {"queued_tokens", response.queued_tokens()},
          {"queued_tokens_limit", response.queued_tokens_limit()},
          {"running_requests", response.running_requests()},
          {"running_requests_limit", response.running_requests_limit()},
          {"recent", ToJson(response.recent())},
          {"since_start", ToJson(response.since_start())},
          {"models", models},
          {"workers", workers}};
}

}  // namespace baton::cli
