// SRV records (RFC 2782): a name that stands for hosts and ports. Kubernetes headless services have them for each named
// port: _grpc._tcp.baton-decode.default.svc.cluster.local.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"

namespace baton {

struct SrvRecord {
  // Clients use the records of the lowest priority; weights don't matter to a router that knows the load.
  uint16_t priority = 0;
  uint16_t port = 0;
  // Without the final dot.
  std::string host;
};

// Asks the system's name servers; blocks for as long as they are configured to take. UNAVAILABLE when the name does not
// resolve now, or offers no service.
absl::StatusOr<std::vector<SrvRecord>> LookUpSrv(const std::string& name);

// The records of a DNS answer (RFC 1035, section 4) that have the lowest priority. Every byte is checked. UNAVAILABLE
// as above, and for anything that is no such answer.
absl::StatusOr<std::vector<SrvRecord>> ParseSrvAnswer(absl::Span<const uint8_t> answer);

}  // namespace baton
