#include "gateway/cli/json_lines.h"

#include <deque>
#include <future>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/rpc/status_mapping.h"
#include "gateway/cli/exit_code.h"
#include "gateway/cli/input.h"

namespace baton::cli {
namespace {

struct Pending {
  int64_t line = 0;
  std::future<absl::StatusOr<std::string>> result;
};

absl::Status WriteFirst(std::deque<Pending>* pending, Session& session) {
  Pending first = std::move(pending->front());
  pending->pop_front();
  const absl::StatusOr<std::string> result = first.result.get();
  if (!result.ok()) return AtLine(result.status(), first.line);
  return session.terminal().Out(*result);
}

}  // namespace

absl::Status ForEachJsonLine(const std::string& path, int parallel, Session& session,
                             const std::function<absl::StatusOr<std::string>(const std::string&)>& work) {
  BATON_ASSIGN_OR_RETURN(const InputFile file, InputFile::Open(path, session.terminal().in()));
  LineReader reader(file.fd(), session.interrupt());
  const auto checked = [&work](const std::string& line) -> absl::StatusOr<std::string> {
    if (absl::StripAsciiWhitespace(line).empty()) {
      return absl::InvalidArgumentError("it is empty; each line holds one JSON value");
    }
    return work(line);
  };
  // Destruction waits for what still runs.
  std::deque<Pending> pending;
  int64_t number = 0;
  while (true) {
    std::string line;
    BATON_ASSIGN_OR_RETURN(const LineReader::End end, reader.Next(&line));
    if (end == LineReader::End::kInterrupted) return session.interrupt().status();
    if (end == LineReader::End::kEof) break;
    ++number;
    const auto policy = parallel > 1 ? std::launch::async : std::launch::deferred;
    pending.push_back({number, std::async(policy, checked, std::move(line))});
    while (static_cast<int>(pending.size()) >= parallel) BATON_RETURN_IF_ERROR(WriteFirst(&pending, session));
  }
  while (!pending.empty()) BATON_RETURN_IF_ERROR(WriteFirst(&pending, session));
  return absl::OkStatus();
}

absl::Status AtLine(const absl::Status& status, int64_t line) {
  const std::string reason = ErrorReason(status);
  if (reason == kInterrupted || reason == kGatewayUnreachable || reason == kOutputClosed) return status;
  absl::Status result(status.code(), absl::StrCat("line ", line, ": ", status.message()));
  status.ForEachPayload([&](absl::string_view url, const absl::Cord& payload) { result.SetPayload(url, payload); });
  return result;
}

absl::StatusOr<std::string> ParseJsonString(const std::string& line) {
  const nlohmann::json value = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
  if (!value.is_string()) return absl::InvalidArgumentError("it is not a JSON string");
  return value.get<std::string>();
}

}  // namespace baton::cli
