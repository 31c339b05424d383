// The flags of every server that say how it logs.
//
//   LogFlags log;
//   AddLogFlags(app, &log);
#pragma once

#include <CLI/CLI.hpp>

#include "common/observe/log.h"

namespace baton {

struct LogFlags {
  bool json = false;
  Severity level = Severity::kInfo;
};

// --log-format and --log-level. `flags` must outlive `app`.
void AddLogFlags(CLI::App& app, LogFlags* flags);

}  // namespace baton
