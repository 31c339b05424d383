// How failures reach people and machines: one line that says what happened and what to do, or one JSON object.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "gateway/cli/session.h"

namespace baton::cli {

// "baton: cannot reach a gateway at 127.0.0.1:7000; start one with ./deploy/up or pass --gateway", then a line for each
// further violation. With --json one object: {"error":{"code","reason","message","violations","retry_after_seconds"}}.
// Ends in a newline; empty for what needs no words (the output's reader went away).
std::string FailureText(const absl::Status& status, const Session& session);

// Writes FailureText to stderr; the exit code.
int ReportFailure(const absl::Status& status, Session& session);

}  // namespace baton::cli
