// A fleet in simulated time: discrete events, no threads, no clock; the same input gives the same figures.
//
// What is real: each prefill worker plans its steps with the scheduler of baton-prefill itself (prompt_scheduler.h);
// the gateway's choice of workers (least tokens to compute, most free state memory); continuous batching, where a
// sequence joins at the next step, and more than --max-batch take turns; reservations before any work. What is not:
// step times come from measurements (service_times.h), nothing fails, clients never cancel, prefixes are cached in a
// fixed share, and workers do not slow each other down, as they do when they share cores or memory bandwidth.
//
//   SimulationResult result = SimulateFleet(options, times, workload);
//   result.report.time_to_first_token.p95, result.prefill_busy
#pragma once

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/types/optional.h"
#include "bench/serve_results.h"
#include "bench/serve_workload.h"
#include "bench/service_times.h"

namespace baton {

struct FleetOptions {
  int prefill_workers = 1;
  int decode_workers = 1;
  // Tokens of one step of a prefill worker (its --chunk-tokens), sequences of one of a decode worker (--max-batch).
  int64_t chunk_tokens = 512;
  int64_t max_batch = 64;
  // Seconds from a request's arrival at the gateway to its place in a prefill queue, and of every token back to the
  // client; from the last chunk of a prompt to a state that the decode worker has verified.
  double request_seconds = 0.001;
  double handoff_seconds = 0.002;
  // Of each prompt, the share that is found in prefix caches, [0, 1).
  double cached_share = 0;
  // Bytes of state memory of one decode worker, and of a sequence of n tokens: fixed + n * each. Unlimited when 0.
  double decode_memory = 0;
  double state_bytes_fixed = 0;
  double state_bytes_token = 0;
  ServiceBounds bounds = {std::numeric_limits<double>::infinity(), std::numeric_limits<double>::infinity()};
};

struct SimulationResult {
  ServeReport report;
  // When the last answer was over, seconds.
  double end = 0;
  // Shares of the time until `end` that workers of a role spent in steps, on average.
  double prefill_busy = 0;
  double decode_busy = 0;
  // Sequences in a decode step on average.
  double mean_batch = 0;
  // No decode worker had room for them: errors RESOURCE_EXHAUSTED in the report.
  int64_t refused = 0;

  // Measured requests that got their first token in time, and those whose tokens came fast enough; shares of what
  // arrived. What was refused counts as neither.
  double first_token_in_time = 0;
  double tokens_in_time = 0;
};

SimulationResult SimulateFleet(const FleetOptions& options, const ServiceTimes& times, const Workload& workload);

struct FleetSize {
  int prefill_workers = 0;
  int decode_workers = 0;
  SimulationResult result;
};

// The smallest fleet of at most `max_workers` of each role in which at least `share` of the requests meet each of
// options.bounds. Roles are sized one after the other, each with plenty of the other, then together. Absent when not
// even the largest does.
absl::optional<FleetSize> RecommendFleet(FleetOptions options, const ServiceTimes& times, const Workload& workload,
                                         double share, int max_workers);

}  // namespace baton
