// Ends connections whose peer opens calls and resets them faster than the server clears up behind it (CVE-2023-44487,
// "rapid reset"). To HTTP/2 a stream that was reset is gone, and no limit on streams counts it; gRPC 1.51 keeps its
// call, some 20 KB, until the application's threads have been through with it. Such orphans are what this bounds.
//
//   ResetGuard guard(max_orphans);
//   every 100 ms: Disconnect(guard.Judge(CountCalls(), &CountConnectionCalls, Clock::now()));
//   while (guard.overwhelmed()) accept no connections
//
// Calls that many clients cancel at once, and then no more of them, are cleared up and nobody's fault: only where new
// calls keep coming does anybody lose a connection.
#pragma once

#include <chrono>
#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/functional/function_ref.h"
#include "common/rpc/call_counts.h"

namespace baton {

class ResetGuard {
 public:
  using Clock = std::chrono::steady_clock;

  explicit ResetGuard(int64_t max_orphans) : max_orphans_(max_orphans) {}

  // The peers to disconnect. `connections` is asked only when there are many calls, and seldom enough to take no more
  // than a tenth of a core.
  std::vector<std::string> Judge(const ServerCalls& calls,
                                 absl::FunctionRef<std::vector<ConnectionCalls>()> connections, Clock::time_point now);
  // There are more orphans than there may be.
  bool overwhelmed() const { return overwhelmed_; }

 private:
  const int64_t max_orphans_;
  int64_t started_ = 0;
  bool overwhelmed_ = false;
  Clock::time_point next_look_ = Clock::time_point::min();
  // Broken streams of each connection when they were last looked at; empty: not since the server was calm.
  std::map<int64_t, int64_t> broken_;
};

// Ends this process's TCP connections with these peers at once; what has come and was not read is dropped.
void Disconnect(const std::vector<std::string>& peers);

}  // namespace baton
