// HOST:PORT as flags and directories give it.
//
//   absl::optional<HostPort> parts = SplitHostPort("[::1]:7000");      // {"::1", "7000"}
#pragma once

#include <string>

#include "absl/strings/string_view.h"
#include "absl/types/optional.h"

namespace baton {

struct HostPort {
  // Without the brackets of an IPv6 address.
  std::string host;
  std::string port;
};

// At the last colon; absent without one. Says nothing of what the parts are: see HostPortProblem.
absl::optional<HostPort> SplitHostPort(absl::string_view text);

// What is wrong with `text`; empty: nothing. IPv6 hosts are in brackets; port 0 is fine.
std::string HostPortProblem(absl::string_view text);

}  // namespace baton
