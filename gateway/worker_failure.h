// What a worker's failed call means for the request: try elsewhere, wait for room, or tell the client, and how.
#pragma once

#include <string>

#include <grpcpp/support/status.h>

#include "absl/status/status.h"
#include "gateway/fleet.h"

namespace baton {

enum class FailureKind {
  // The worker has no room: wait until one has.
  kFull,
  // The worker, or its way to the other one, is gone or draining: another attempt may succeed.
  kRetriable,
  // The same again would fail again.
  kFinal,
};

struct WorkerFailure {
  FailureKind kind = FailureKind::kFinal;
  // Whose fault it was: the stage to look for another worker for. A handoff names its other end.
  Stage blamed = Stage::kPrefill;
  // For the client, should this end the request.
  absl::Status status;
};

// `stage` and `endpoint`: the worker whose call ended with `status`, which is not OK and was not caused by a
// cancellation of ours.
WorkerFailure ClassifyFailure(Stage stage, const std::string& endpoint, const grpc::Status& status);

}  // namespace baton
