// How a benchmark's program ends; it begins as the servers do (ParseCommandLine): a wrong flag is one line and 2, a run
// that fails one line and 1.
//
//   int Main(int argc, char** argv) {
//     CLI::App app("What it measures.", "bench_engine");
//     if (const absl::optional<int> code = ParseCommandLine(app, argc, argv)) return *code;
//     return EndProgram(app, Run(flags));
//   }
//   int main(int argc, char** argv) { return baton::RunProgram(&baton::Main, argc, argv); }
#pragma once

#include <cstdio>
#include <exception>
#include <string>

#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "common/rpc/command_line.h"
#include "common/rpc/worker_flags.h"

namespace baton {

inline constexpr int kExitFailure = 1;

// What to exit with after the run.
inline int EndProgram(const CLI::App& app, const absl::Status& status) {
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s: %s\n", app.get_name().c_str(), std::string(status.message()).c_str());
  return kExitFailure;
}

// `program`'s exit code. An exception, as when memory runs out, is one line and 1, too.
inline int RunProgram(int (*program)(int, char**), int argc, char** argv) {
  try {
    return program(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s: %s\n", argv[0], error.what());
    return kExitFailure;
  }
}

}  // namespace baton
