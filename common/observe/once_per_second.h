// For log lines that a peer can bring about as often as it likes: one a second is enough.
//
//   if (limit_.Due()) Log(Severity::kWarning, "peer_refused")...
#pragma once

#include <atomic>
#include <cstdint>

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace baton {

class OncePerSecond {
 public:
  // True for one caller in each second. Thread-safe.
  bool Due() {
    const int64_t second = absl::ToUnixSeconds(absl::Now());
    return last_.exchange(second) != second;
  }

 private:
  std::atomic<int64_t> last_{0};
};

}  // namespace baton
