// Finds a kept conversation: asks the decode worker that kept it, and where that has it no more, or is gone, the others
// of the model, which may share a directory with it.
//
//   OpenSession(router.DecodeWorkers(fingerprint, boot_id), request, vocab_size, deadline,
//               [=](absl::StatusOr<SessionPrefix> prefix) { ... });
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "baton/worker/v1/worker.pb.h"
#include "gateway/fleet.h"
#include "gateway/request_check.h"

namespace baton {

// NOT_FOUND, reason SESSION_EXPIRED: says what to do. The same whatever is wrong with a handle.
absl::Status SessionExpired();

// Calls `done` exactly once, on one of gRPC's threads or before it returns.
void OpenSession(std::vector<std::shared_ptr<WorkerConnection>> workers, const worker::v1::OpenSessionRequest& request,
                 int64_t vocab_size, std::chrono::system_clock::time_point deadline,
                 std::function<void(absl::StatusOr<SessionPrefix>)> done);

}  // namespace baton
