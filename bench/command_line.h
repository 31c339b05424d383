// How a benchmark's program begins and ends: --help and --version exit with 0, a wrong flag with one line and 2, a run
// that fails with one line and 1.
//
//   CLI::App app("What it measures.", "bench_engine");
//   if (const absl::optional<int> code = ParseCommandLine(app, argc, argv)) return *code;
//   return EndProgram(app, Run(flags));
#pragma once

#include <algorithm>
#include <cstdio>
#include <string>

#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "absl/types/optional.h"

namespace baton {

inline constexpr int kExitFailure = 1;
inline constexpr int kExitUsage = 2;

// What to exit with; absent: go on.
inline absl::optional<int> ParseCommandLine(CLI::App& app, int argc, char** argv) {
  try {
    app.parse(argc, argv);
    return absl::nullopt;
  } catch (const CLI::Success& success) {
    return app.exit(success);  // --help, --version
  } catch (const CLI::ParseError& error) {
    std::string message = error.what();
    std::replace(message.begin(), message.end(), '\n', ' ');
    const std::string name = app.get_name();
    std::fprintf(stderr, "%s: %s; see %s --help\n", name.c_str(), message.c_str(), name.c_str());
    return kExitUsage;
  }
}

// What to exit with after the run.
inline int EndProgram(const CLI::App& app, const absl::Status& status) {
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s: %s\n", app.get_name().c_str(), std::string(status.message()).c_str());
  return kExitFailure;
}

}  // namespace baton
