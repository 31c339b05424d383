#include "gateway/cli/failure.h"

#include <utility>
#include <vector>

#include <nlohmann/json.hpp>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/rpc/status_mapping.h"
#include "gateway/cli/exit_code.h"
#include "gateway/cli/json_output.h"
#include "google/rpc/error_details.pb.h"

namespace baton::cli {
namespace {

using Violations = std::vector<std::pair<std::string, std::string>>;

Violations FieldViolations(const absl::Status& status) {
  const absl::optional<absl::Cord> payload = status.GetPayload("type.googleapis.com/google.rpc.BadRequest");
  google::rpc::BadRequest bad_request;
  if (!payload.has_value() || !bad_request.ParseFromString(std::string(*payload))) return {};
  Violations violations;
  for (const auto& violation : bad_request.field_violations()) {
    violations.emplace_back(violation.field(), violation.description());
  }
  return violations;
}

// What to do about it; empty when the message says it all.
std::string Advice(const absl::Status& status, const std::string& reason) {
  if (reason == kGatewayUnreachable) return "start one with ./deploy/up or pass --gateway";
  if (reason == kNotAGateway) return "pass the gateway's address with --gateway, not a worker's";
  if (reason == "MODEL_AMBIGUOUS") return "choose one with --model";
  if (reason == "API_KEY_MISSING") return "pass one with --api-key-file or BATON_API_KEY";
  if (reason == "NO_WORKERS") return "`baton status` shows the workers";
  if (reason == "DRAINING") return "the gateway is shutting down; try again when it is back";
  if (status.code() == absl::StatusCode::kResourceExhausted && !reason.empty()) {
    const absl::Duration delay = RetryDelay(status);
    if (delay > absl::ZeroDuration()) return absl::StrCat("try again in ", absl::FormatDuration(delay));
    return "try again later";
  }
  if (status.code() == absl::StatusCode::kDeadlineExceeded) return "--timeout allows more time";
  return "";
}

std::string OneLine(absl::string_view text) {
  std::string line = WithoutControls(text);
  for (char& c : line) {
    if (c == '\n' || c == '\t') c = ' ';
  }
  return line;
}

}  // namespace

std::string FailureText(const absl::Status& status, const Session& session) {
  const std::string reason = ErrorReason(status);
  if (reason == kOutputClosed) return "";
  const Violations violations = FieldViolations(status);
  std::string message(status.message());
  if (message.empty()) message = absl::StatusCodeToString(status.code());

  if (session.options.json) {
    Json error = {{"code", absl::StatusCodeToString(status.code())}, {"message", message}};
    if (!reason.empty()) error["reason"] = reason;
    for (const auto& [field, description] : violations) {
      error["violations"].push_back({{"field", field}, {"description", description}});
    }
    const absl::Duration delay = RetryDelay(status);
    if (delay > absl::ZeroDuration()) error["retry_after_seconds"] = absl::ToDoubleSeconds(delay);
    return JsonLine({{"error", error}});
  }

  if (reason == kInterrupted) return "";
  std::string text;
  if (violations.size() > 1) {
    absl::StrAppend(&text, "the request has ", violations.size(), " invalid fields");
    for (const auto& [field, description] : violations) {
      absl::StrAppend(&text, "\n  ", OneLine(field), ": ", OneLine(description));
    }
  } else {
    text = OneLine(absl::StripSuffix(message, "."));
    const std::string advice = Advice(status, reason);
    // The gateway's own words may already give it.
    if (!advice.empty() && !absl::StrContains(text, advice)) absl::StrAppend(&text, "; ", advice);
  }
  return text + "\n";
}

int ReportFailure(const absl::Status& status, Session& session) {
  const std::string text = FailureText(status, session);
  if (!text.empty()) {
    Terminal& terminal = session.terminal();
    if (!session.options.json) terminal.Note(terminal.PaintNote(Terminal::Style::kRed, "baton: "));
    terminal.Note(text);
  }
  if (ErrorReason(status) == kInterrupted && session.interrupt().raised()) return 128 + session.interrupt().signal();
  return ExitCodeFor(status);
}

}  // namespace baton::cli
