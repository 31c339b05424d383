// The floor under a gateway's cost: a gRPC server that passes on each message of a worker's stream as it is, with the
// same server, channels and writer as the gateway and nothing between them. bench_gateway --floor runs it in a process
// of its own.
#pragma once

#include <string>

#include "absl/status/status.h"

namespace baton {

// Serves Decode.Run on a free port and relays it to the worker at `worker`; says READY as the servers do, and returns
// after SIGTERM or SIGINT. The shutdown signals are blocked (BlockShutdownSignals).
absl::Status RunBareRelay(const std::string& worker);

}  // namespace baton
