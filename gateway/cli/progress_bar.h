// A bar that is rewritten in place, on a terminal only: done, total and how long the rest will take.
//
//   ProgressBar bar(terminal);
//   bar.Update(done, total);
//   bar.Remove();
#pragma once

#include <cstdint>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gateway/cli/terminal.h"

namespace baton::cli {

class ProgressBar {
 public:
  explicit ProgressBar(Terminal& terminal) : terminal_(terminal), start_(absl::Now()) {}

  // In bytes. Draws at most ten times a second.
  void Update(int64_t done, int64_t total);
  void Remove() { terminal_.Note("\r\033[K"); }

 private:
  Terminal& terminal_;
  const absl::Time start_;
  absl::Time drawn_ = absl::InfinitePast();
};

}  // namespace baton::cli
