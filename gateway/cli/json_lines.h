// Files of one JSON value a line: each line becomes one line of output, in the same order, several at a time.
#pragma once

#include <functional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "gateway/cli/session.h"

namespace baton::cli {

// Runs `work` on each line of `path` ("-": standard input), up to `parallel` at once, and writes the results. The first
// failure ends it and names its line; results of the lines before are written. `work` must be thread-safe.
absl::Status ForEachJsonLine(const std::string& path, int parallel, Session& session,
                             const std::function<absl::StatusOr<std::string>(const std::string& line)>& work);

// "line 17: " before the message; code and details stay.
absl::Status AtLine(const absl::Status& status, int64_t line);

// INVALID_ARGUMENT unless `line` is a JSON string.
absl::StatusOr<std::string> ParseJsonString(const std::string& line);

}  // namespace baton::cli
