// What a failed Decode.Receive means: the status that Prefill.Run ends with, and how it is counted.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace baton {

// Values of the `reason` label of baton_handoff_failures_total.
enum class HandoffFailureKind { kCancelled, kUnreachable, kRefused, kCorrupt };

struct HandoffFailure {
  HandoffFailureKind kind = HandoffFailureKind::kUnreachable;
  // DATA_LOSS, FAILED_PRECONDITION and DEADLINE_EXCEEDED stay; everything else is UNAVAILABLE with reason
  // HANDOFF_FAILED: another attempt, elsewhere, may succeed. The receiver's other details are kept.
  absl::Status status;
};

// `received`: not OK, as Decode.Receive ended.
HandoffFailure ExplainHandoffFailure(const absl::Status& received, const std::string& endpoint);

}  // namespace baton
