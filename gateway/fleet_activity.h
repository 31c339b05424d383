// What this gateway and its workers did lately: the rates and latencies of GetStatus. Once a second it looks at what
// the metrics and the workers' load reports count anyway, and remembers that for a minute; what happened in a window is
// the difference. So requests and tokens cost nothing more than they did.
//
//   FleetActivity activity(&gateway_metrics, [&] { return registry.Workers(); });
//   activity.Start(&timers);
//   activity.Describe(std::chrono::seconds(10), Clock::now(), &response);
//
// Thread-safe.
#pragma once

#include <chrono>
#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "baton/v1/inference.pb.h"
#include "gateway/activity_totals.h"
#include "gateway/fleet.h"
#include "gateway/gateway_metrics.h"
#include "gateway/sample_window.h"
#include "gateway/timers.h"

namespace baton {

// Of one worker, over a window.
struct WorkerRates {
  double steps_per_second = 0;
  // In one step, on average.
  double sequences_per_step = 0;
  // Of its prompts' tokens, those that need not be computed. Absent: no prompts.
  absl::optional<double> cached_prompt_share;
};

class FleetActivity {
 public:
  // How far back it can look.
  static constexpr std::chrono::seconds kLongestWindow{60};

  // Its uptime begins here. `metrics`, and what `workers` uses, must outlive it.
  FleetActivity(const GatewayMetrics* metrics, std::function<std::vector<WorkerSnapshot>()> workers,
                Clock::time_point now = Clock::now());
  FleetActivity(const FleetActivity&) = delete;

  // Samples every second from now on, until `timers` stops.
  void Start(Timers* timers);
  void Sample(Clock::time_point now);

  // Fills recent, since_start and models.
  void Describe(Clock::duration window, Clock::time_point now, v1::GetStatusResponse* response) const;
  // As of the worker's last report.
  WorkerRates RatesOf(const WorkerSnapshot& worker, Clock::duration window) const;

 private:
  // Unknown models too.
  using ByModel = std::map<std::string, ActivityTotals>;
  using WorkerKey = std::pair<Stage, std::string>;
  // What a load report counts since the worker's start. Doubles: a worker may report anything.
  struct WorkerCounts {
    double steps = 0;
    double sequences = 0;
    double computed = 0;
    double cached = 0;
  };
  // Of one process.
  struct WorkerHistory {
    std::string boot_id;
    // By the reports' times.
    SampleWindow<WorkerCounts> window{kLongestWindow};
  };

  static WorkerCounts CountsOf(const worker::v1::Load& load);
  ByModel Totals() const;

  const GatewayMetrics* const metrics_;
  const std::function<std::vector<WorkerSnapshot>()> workers_;
  const Clock::time_point started_;

  // Guards what follows.
  mutable std::mutex mutex_;
  SampleWindow<ByModel> totals_{kLongestWindow};
  std::map<WorkerKey, WorkerHistory> histories_;
};

}  // namespace baton
