#include "gateway/fleet_activity.h"

#include <algorithm>

namespace baton {
namespace {

constexpr std::chrono::seconds kSampleInterval{1};

}  // namespace

FleetActivity::FleetActivity(const GatewayMetrics* metrics, std::function<std::vector<WorkerSnapshot>()> workers,
                             Clock::time_point now)
    : metrics_(metrics), workers_(std::move(workers)), started_(now) {
  totals_.Add(now, Totals());
}

void FleetActivity::Start(Timers* timers) {
  Sample(Clock::now());
  timers->After(kSampleInterval, [this, timers] { Start(timers); });
}

FleetActivity::ByModel FleetActivity::Totals() const {
  ByModel totals;
  for (const auto& [model, metrics] : metrics_->Models()) totals.emplace(model, metrics->Totals());
  return totals;
}

FleetActivity::WorkerCounts FleetActivity::CountsOf(const worker::v1::Load& load) {
  WorkerCounts counts;
  counts.steps = static_cast<double>(load.steps_done());
  counts.sequences = static_cast<double>(load.step_sequences());
  counts.computed = static_cast<double>(load.prompt_tokens_computed());
  counts.cached = static_cast<double>(load.prompt_tokens_cached());
  return counts;
}

void FleetActivity::Sample(Clock::time_point now) {
  ByModel totals = Totals();
  const std::vector<WorkerSnapshot> workers = workers_();
  std::lock_guard<std::mutex> lock(mutex_);
  totals_.Add(now, std::move(totals));
  // Of workers that are not listed any more, nothing is kept.
  std::map<WorkerKey, WorkerHistory> histories;
  for (const WorkerSnapshot& worker : workers) {
    if (worker.info == nullptr || worker.load_time == Clock::time_point::min()) continue;
    const WorkerKey key(worker.stage, worker.endpoint);
    const auto known = histories_.find(key);
    const bool same = known != histories_.end() && known->second.boot_id == worker.info->boot_id();
    WorkerHistory& history = same ? histories.emplace(key, std::move(known->second)).first->second : histories[key];
    history.boot_id = worker.info->boot_id();
    history.window.Add(worker.load_time, CountsOf(worker.load));
  }
  histories_ = std::move(histories);
}

void FleetActivity::Describe(Clock::duration window, Clock::time_point now, v1::GetStatusResponse* response) const {
  const std::map<std::string, ModelMetrics*> models = metrics_->Models();
  ActivityTotals all;
  ActivityTotals all_recent;
  std::lock_guard<std::mutex> lock(mutex_);
  const SampleWindow<ByModel>::Sample& then = *totals_.At(now - window);
  const double seconds = std::max(0.0, SecondsBetween(then.time, now));
  const double uptime = std::max(0.0, SecondsBetween(started_, now));
  for (const auto& [model, metrics] : models) {
    const ActivityTotals totals = metrics->Totals();
    ActivityTotals recent = totals;
    const auto before = then.value.find(model);
    if (before != then.value.end()) recent.Subtract(before->second);
    all.Add(totals);
    all_recent.Add(recent);
    if (model == kUnknownModel) continue;
    v1::ModelStatus* const status = response->add_models();
    status->set_model(model);
    status->set_queued_requests(static_cast<int64_t>(metrics->waiting.Value()));
    status->set_running_requests(static_cast<int64_t>(metrics->running.Value()));
    recent.Describe(seconds, status->mutable_recent());
    totals.Describe(uptime, status->mutable_since_start());
  }
  all_recent.Describe(seconds, response->mutable_recent());
  all.Describe(uptime, response->mutable_since_start());
}

WorkerRates FleetActivity::RatesOf(const WorkerSnapshot& worker, Clock::duration window) const {
  WorkerRates rates;
  if (worker.info == nullptr || worker.load_time == Clock::time_point::min()) return rates;
  std::lock_guard<std::mutex> lock(mutex_);
  const auto history = histories_.find(WorkerKey(worker.stage, worker.endpoint));
  if (history == histories_.end() || history->second.boot_id != worker.info->boot_id()) return rates;
  const SampleWindow<WorkerCounts>::Sample* const then = history->second.window.At(worker.load_time - window);
  const double seconds = SecondsBetween(then->time, worker.load_time);
  if (seconds <= 0) return rates;
  const WorkerCounts now = CountsOf(worker.load);
  const double steps = std::max(0.0, now.steps - then->value.steps);
  const double sequences = std::max(0.0, now.sequences - then->value.sequences);
  const double computed = std::max(0.0, now.computed - then->value.computed);
  const double cached = std::max(0.0, now.cached - then->value.cached);
  rates.steps_per_second = steps / seconds;
  if (steps > 0) rates.sequences_per_step = sequences / steps;
  if (computed + cached > 0) rates.cached_prompt_share = cached / (computed + cached);
  return rates;
}

}  // namespace baton
