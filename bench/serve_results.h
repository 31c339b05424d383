// What became of the requests of a load run, and its figures.
//
// Latencies count from a request's intended arrival, not from when it could be sent: a system that falls behind cannot
// hide it by making the load generator wait (no coordinated omission).
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "bench/latency_summary.h"
#include "bench/serve_workload.h"

namespace baton {

// All times in seconds after the beginning of the run.
struct RequestOutcome {
  WorkItem item;
  // Sent at all (a request whose time is over before there is room for it is not).
  bool sent = false;
  double sent_at = 0;
  // Of the first output token; only with tokens > 0.
  double first_token_at = 0;
  double last_token_at = 0;
  double ended_at = 0;
  int64_t tokens = 0;
  // Between messages that carry tokens.
  std::vector<double> gaps;
  // Empty: completed. Else the code, with the ErrorInfo reason if there is one: "RESOURCE_EXHAUSTED QUEUE_FULL".
  std::string error;
  std::string error_message;
  // Ended by the run's own interruption: neither a success nor an error.
  bool interrupted = false;
};

struct ServiceBounds {
  // Seconds; infinite when not asked for.
  double time_to_first_token;
  double inter_token;
};

struct ServeReport {
  int64_t arrived = 0;
  int64_t completed = 0;
  int64_t failed = 0;
  // Not over when the run was interrupted.
  int64_t unfinished = 0;
  // Completed with fewer tokens than asked for.
  int64_t short_outputs = 0;
  int64_t good = 0;
  // Seconds of arrivals that were measured.
  double arrival_window = 0;
  double offered_rate = 0;
  // Seconds of answers that were measured: the same, unless the run was limited by a number of requests. Then it goes
  // on to the last answer.
  double answer_window = 0;
  // Requests completed and tokens received within the answer window, whenever their requests arrived; and good requests
  // for each second of it.
  double completed_rate = 0;
  double output_tokens_rate = 0;
  double goodput = 0;
  int64_t prompt_tokens = 0;
  int64_t output_tokens = 0;
  LatencySummary time_to_first_token;
  LatencySummary inter_token;
  // Of one request: (last token - first token) / (tokens - 1).
  LatencySummary time_per_output_token;
  LatencySummary end_to_end;
  // From intended arrival to the call: what the generator itself, or its limit on requests in flight, added.
  LatencySummary send_delay;
  struct Error {
    int64_t count = 0;
    std::string example;
  };
  std::map<std::string, Error> errors;
};

// Thread-safe.
class ServeResults {
 public:
  explicit ServeResults(const Workload& workload);

  // Tokens that just came, of any request.
  void AddTokens(double now, int64_t count);
  void Add(RequestOutcome outcome);
  // Figures of a run that ended at `end`. An interrupted run's windows end there.
  ServeReport Report(double end, bool interrupted, const ServiceBounds& bounds) const;

  struct Progress {
    int64_t completed = 0;
    int64_t failed = 0;
  };
  Progress progress() const;

 private:
  const double begin_;
  const double arrivals_end_;
  const double answers_end_;
  mutable absl::Mutex mutex_;
  std::vector<RequestOutcome> measured_ ABSL_GUARDED_BY(mutex_);
  // When requests completed, measured or not.
  std::vector<double> completions_ ABSL_GUARDED_BY(mutex_);
  int64_t failed_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t tokens_in_window_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace baton
