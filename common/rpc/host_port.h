// HOST:PORT as flags and directories give it.
#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace baton {

// What is wrong with `text`; empty: nothing. IPv6 hosts are in brackets; port 0 is fine.
std::string HostPortProblem(absl::string_view text);

}  // namespace baton
