#include "gateway/cli/exit_code.h"

#include <string>

#include "common/rpc/status_mapping.h"

namespace baton::cli {

int ExitCodeFor(const absl::Status& status) {
  if (status.ok()) return kExitOk;
  const std::string reason = ErrorReason(status);
  if (reason == kGatewayUnreachable) return kExitUnreachable;
  if (reason == kOutputClosed) return kExitBrokenPipe;
  if (reason == kInterrupted) return kExitInterrupted;
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
      return kExitUsage;
    case absl::StatusCode::kResourceExhausted:
      // Without a reason it is not load but size: gRPC's own answer to an oversized message, or a full disk.
      return reason.empty() ? kExitFailure : kExitOverloaded;
    case absl::StatusCode::kDeadlineExceeded:
      return kExitDeadline;
    default:
      return kExitFailure;
  }
}

}  // namespace baton::cli
