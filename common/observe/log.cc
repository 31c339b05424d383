#include "common/observe/log.h"

#include <unistd.h>

#include <atomic>
#include <cmath>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"

namespace baton {
namespace {

// Written once at start, before threads; read without a lock afterwards.
LogOptions& Options() {
  static LogOptions* options = new LogOptions;
  return *options;
}

absl::string_view SeverityName(Severity severity) {
  switch (severity) {
    case Severity::kDebug:
      return "DEBUG";
    case Severity::kInfo:
      return "INFO";
    case Severity::kWarning:
      return "WARNING";
    case Severity::kError:
      return "ERROR";
  }
  return "INFO";
}

// JSON string contents. Bytes that are not ASCII are kept: values are UTF-8.
std::string JsonEscape(absl::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '"' || c == '\\') {
      absl::StrAppend(&out, "\\", absl::string_view(&c, 1));
    } else if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppend(&out, absl::StrFormat("\\u%04x", static_cast<int>(c)));
    } else {
      out.push_back(c);
    }
  }
  return out;
}

bool NeedsQuotes(absl::string_view text) {
  if (text.empty()) return true;
  for (char c : text) {
    if (static_cast<unsigned char>(c) <= ' ' || c == '"' || c == '=' || c == '\\') return true;
  }
  return false;
}

}  // namespace

void ConfigureLog(const LogOptions& options) { Options() = options; }

bool ParseSeverity(absl::string_view text, Severity* out) {
  if (text == "debug") {
    *out = Severity::kDebug;
  } else if (text == "info") {
    *out = Severity::kInfo;
  } else if (text == "warning") {
    *out = Severity::kWarning;
  } else if (text == "error") {
    *out = Severity::kError;
  } else {
    return false;
  }
  return true;
}

Log::Log(Severity severity, absl::string_view event) : enabled_(severity >= Options().minimum) {
  if (!enabled_) return;
  const std::string time = absl::FormatTime("%Y-%m-%dT%H:%M:%E3SZ", absl::Now(), absl::UTCTimeZone());
  if (Options().json) {
    line_ = absl::StrCat("{\"time\":\"", time, "\",\"severity\":\"", SeverityName(severity), "\",\"event\":\"",
                         JsonEscape(event), "\"");
  } else {
    line_ = absl::StrCat(time, " ", SeverityName(severity), " ", event);
  }
  if (!Options().role.empty()) With("role", absl::string_view(Options().role));
}

Log::~Log() {
  if (!enabled_) return;
  absl::StrAppend(&line_, Options().json ? "}\n" : "\n");
  // A log that can't be written is not worth more than trying.
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line_.data(), line_.size());
}

Log& Log::With(absl::string_view key, absl::string_view value) {
  if (!enabled_) return *this;
  if (Options().json) {
    absl::StrAppend(&line_, ",\"", key, "\":\"", JsonEscape(value), "\"");
  } else if (NeedsQuotes(value)) {
    absl::StrAppend(&line_, " ", key, "=\"", absl::Utf8SafeCEscape(value), "\"");
  } else {
    absl::StrAppend(&line_, " ", key, "=", value);
  }
  return *this;
}

Log& Log::With(absl::string_view key, double value) {
  if (!enabled_) return *this;
  const std::string text = std::isfinite(value) ? absl::StrFormat("%.6g", value) : std::string("null");
  absl::StrAppend(&line_, Options().json ? absl::StrCat(",\"", key, "\":", text) : absl::StrCat(" ", key, "=", text));
  return *this;
}

Log& Log::With(absl::string_view key, int64_t value) {
  if (!enabled_) return *this;
  absl::StrAppend(&line_, Options().json ? absl::StrCat(",\"", key, "\":", value) : absl::StrCat(" ", key, "=", value));
  return *this;
}

Log& Log::With(absl::string_view key, uint64_t value) {
  if (!enabled_) return *this;
  absl::StrAppend(&line_, Options().json ? absl::StrCat(",\"", key, "\":", value) : absl::StrCat(" ", key, "=", value));
  return *this;
}

Log& Log::With(absl::string_view key, bool value) {
  if (!enabled_) return *this;
  const absl::string_view text = value ? "true" : "false";
  absl::StrAppend(&line_, Options().json ? absl::StrCat(",\"", key, "\":", text) : absl::StrCat(" ", key, "=", text));
  return *this;
}

Log& Log::With(absl::string_view key, const absl::Status& status) {
  if (!enabled_) return *this;
  return With(key, absl::string_view(absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message())));
}

}  // namespace baton
