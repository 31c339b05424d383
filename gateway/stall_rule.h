// When a worker that owes a request something counts as hung: it is silent (its load reports are missing as well), or
// stuck (it reports, and neither this request nor any other has got on for several times as long).
//
//   const StallRule rule{timeout, Clock::now()};
//   if (rule.Quiet(last_event) && rule.Silent(router.Pulse(stage, endpoint))) ...give it up...
#pragma once

#include <algorithm>
#include <chrono>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "common/rpc/status_mapping.h"
#include "gateway/router.h"
#include "gateway/timers.h"

namespace baton {

struct StallRule {
  // A worker that reports and gets nowhere may be at a long step of its model: it gets this many timeouts.
  static constexpr int kStuckFactor = 6;

  Clock::duration timeout;
  Clock::time_point now;

  // `last_event`: when the worker was last heard of in the request's matter.
  bool Quiet(Clock::time_point last_event) const { return now - last_event >= timeout; }
  bool Silent(const WorkerPulse& pulse) const { return pulse.heard < now - std::max(timeout, kReportsMissing); }
  bool Stuck(const WorkerPulse& pulse, Clock::time_point last_event) const {
    const Clock::time_point limit = now - std::max(kStuckFactor * timeout, kReportsMissing);
    return last_event < limit && pulse.progressed < limit;
  }
  // When to look again.
  Clock::time_point Next(Clock::time_point last_event) const {
    return std::max(last_event + timeout, now + timeout / 4);
  }
  // UNAVAILABLE, reason STALLED.
  absl::Status Error(Clock::time_point last_event) const {
    return WithReason(
        absl::UnavailableError(absl::StrCat("no sign of life for ", SecondsBetween(last_event, now), " s")), "STALLED");
  }
};

}  // namespace baton
