// What all servers' command lines have in common. Apart from worker_flags.h so that programs that load no model link
// nothing of what that takes.
#pragma once

#include <CLI/CLI.hpp>

#include "absl/types/optional.h"

namespace baton {

// A check for options that take HOST:PORT (IPv6 hosts in brackets); port 0 is fine.
CLI::Validator IsHostPort();

// Runs the parser. Absent: go on. 0: --help or --version was printed. 2: one line on stderr said what was wrong.
absl::optional<int> ParseCommandLine(CLI::App& app, int argc, const char* const* argv);

}  // namespace baton
