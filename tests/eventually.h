// Waiting for what something else is about to bring about.
//
//   ASSERT_TRUE(Eventually([&] { return server.calls() == 1; }));
#pragma once

#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace baton {

// Long enough for a loaded machine under a sanitizer; only ever waited out by a test that fails.
inline constexpr absl::Duration kTestTimeout = absl::Seconds(60);

// True once `condition` holds; it is looked at every millisecond.
template <typename Condition>
bool Eventually(Condition condition) {
  const absl::Time give_up = absl::Now() + kTestTimeout;
  while (!condition()) {
    if (absl::Now() > give_up) return false;
    absl::SleepFor(absl::Milliseconds(1));
  }
  return true;
}

}  // namespace baton
