// Ends connections whose peer opens calls and resets them faster than a server clears up behind it (CVE-2023-44487,
// "rapid reset"). To HTTP/2 a stream that was reset is gone, and no limit on streams counts it; gRPC 1.51 holds some 20
// KB of its call for as long as it takes to get to it, which is no time at a few thousand a second, and ever longer
// beyond.
//
//   ResetGuard guard(/*max_resets=*/2000, /*max_streams=*/1024);
//   every 50 ms: Disconnect(guard.Judge(CountStartedCalls(), &CountConnectionCalls, Clock::now()));
//   while (guard.floods()) accept no connections: who floods comes back at once
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/types/optional.h"
#include "common/rpc/call_counts.h"

namespace baton {

class ResetGuard {
 public:
  using Clock = std::chrono::steady_clock;

  // `max_resets`: within a second, of all connections together. `max_streams`: that one connection may have open; what
  // it has beyond that has been reset, though nobody has got to it yet.
  ResetGuard(int64_t max_resets, int64_t max_streams) : max_resets_(max_resets), max_streams_(max_streams) {}

  // The peers to disconnect. `connections` is asked only while more calls than that come, and seldom enough to take no
  // more than a tenth of a core.
  std::vector<std::string> Judge(int64_t started_calls, absl::FunctionRef<std::vector<ConnectionCalls>()> connections,
                                 Clock::time_point now);
  // There was a flood within the last two seconds.
  bool floods() const { return floods_; }

 private:
  // Of all connections, up to a second ago.
  struct Look {
    Clock::time_point at;
    // Streams that were reset, by connection.
    std::map<int64_t, int64_t> broken;
  };

  const int64_t max_resets_;
  const int64_t max_streams_;
  int64_t started_ = 0;
  Clock::time_point judged_ = Clock::time_point::min();
  bool floods_ = false;
  Clock::time_point last_flood_;
  Clock::time_point next_look_ = Clock::time_point::min();
  // Absent: not since the server was calm.
  absl::optional<Look> last_look_;
};

// Ends this process's TCP connections with these peers at once; what has come and was not read is dropped.
void Disconnect(const std::vector<std::string>& peers);

}  // namespace baton
