// What `baton` tells the shell, and where that is decided: one mapping from status to exit code for every command.
#pragma once

#include "absl/status/status.h"

namespace baton::cli {

enum ExitCode : int {
  kExitOk = 0,
  // The gateway refused or failed, or something here could not be read or written.
  kExitFailure = 1,
  // The command line or a value in it (also one that the gateway found invalid).
  kExitUsage = 2,
  // Nobody answers at the gateway's address, or the connection was lost.
  kExitUnreachable = 3,
  // RESOURCE_EXHAUSTED: try again later.
  kExitOverloaded = 4,
  kExitDeadline = 5,
  // As a shell reports SIGINT (130), SIGPIPE (141) and SIGTERM (143).
  kExitInterrupted = 130,
  kExitBrokenPipe = 141,
};

// ErrorInfo reasons that this program gives itself.
inline constexpr char kGatewayUnreachable[] = "GATEWAY_UNREACHABLE";
inline constexpr char kNotAGateway[] = "NOT_A_GATEWAY";
inline constexpr char kOutputClosed[] = "OUTPUT_CLOSED";
inline constexpr char kInterrupted[] = "INTERRUPTED";

int ExitCodeFor(const absl::Status& status);

}  // namespace baton::cli
