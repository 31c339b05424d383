// What loading a model tells those who wait for it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "absl/status/status.h"

namespace baton {

struct LoadNotice {
  enum class Severity { kInfo, kWarning };
  Severity severity = Severity::kInfo;
  // For logs: "packing_weights".
  std::string event;
  // For people.
  std::string text;
};

// All may be empty.
struct LoadObserver {
  // (bytes done, bytes total) while weights are packed or checked; from one thread at a time.
  std::function<void(int64_t, int64_t)> progress;
  std::function<void(const LoadNotice&)> notice;
  // Asked now and then. True: loading ends with CANCELLED.
  std::function<bool()> cancelled;

  void Tell(LoadNotice::Severity severity, std::string event, std::string text) const {
    if (notice) notice({severity, std::move(event), std::move(text)});
  }
  absl::Status CheckCancelled() const {
    return cancelled && cancelled() ? absl::CancelledError("interrupted while weights were loaded") : absl::OkStatus();
  }
};

}  // namespace baton
