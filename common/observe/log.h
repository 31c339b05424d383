// Structured logs: one line per event on stderr, logfmt (default) or JSON. Never prompts, never generated text.
//
//   Log(Severity::kInfo, "request_done").With("request_id", id).With("outcome", "stop").With("ttft_ms", 12.5);
//   -> 2026-01-31T12:00:00.123Z INFO request_done role=gateway request_id=req-1 outcome=stop ttft_ms=12.5
//
// The line is written, in one write(2), when the temporary dies. Thread-safe.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace baton {

enum class Severity { kDebug, kInfo, kWarning, kError };

struct LogOptions {
  Severity minimum = Severity::kInfo;
  bool json = false;
  // Added to every line: gateway, prefill, decode.
  std::string role;
};

// Once, at start.
void ConfigureLog(const LogOptions& options);
// "debug", "info", "warning", "error"; false when unknown.
bool ParseSeverity(absl::string_view text, Severity* out);

class Log {
 public:
  Log(Severity severity, absl::string_view event);
  Log(const Log&) = delete;
  ~Log();

  Log& With(absl::string_view key, absl::string_view value);
  Log& With(absl::string_view key, const char* value) { return With(key, absl::string_view(value)); }
  Log& With(absl::string_view key, double value);
  Log& With(absl::string_view key, int64_t value);
  Log& With(absl::string_view key, int value) { return With(key, static_cast<int64_t>(value)); }
  Log& With(absl::string_view key, uint64_t value);
  Log& With(absl::string_view key, bool value);
  Log& With(absl::string_view key, const absl::Status& status);

 private:
  bool enabled_;
  std::string line_;
};

}  // namespace baton
