// baton status: the fleet, refreshed in place every second while a person watches.
#include <signal.h>

#include <algorithm>
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/bytes.h"
#include "common/base/status_macros.h"
#include "common/rpc/status_mapping.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/exit_code.h"
#include "gateway/cli/format.h"
#include "gateway/cli/json_output.h"

namespace baton::cli {
namespace {

constexpr absl::Duration kRefresh = absl::Seconds(1);
constexpr char kNoWrap[] = "\033[?7l";
constexpr char kWrap[] = "\033[?7h";

Terminal::Style StateStyle(const std::string& state) {
  if (state == "SERVING") return Terminal::Style::kGreen;
  if (state == "UNREACHABLE") return Terminal::Style::kRed;
  return Terminal::Style::kYellow;
}

std::string MemoryCell(const v1::WorkerStatus& worker) {
  if (worker.state_bytes_total() <= 0) return "-";
  const double percent =
      100.0 * static_cast<double>(worker.state_bytes_used()) / static_cast<double>(worker.state_bytes_total());
  return absl::StrFormat("%.0f%% of %s", percent, FormatBytes(worker.state_bytes_total()));
}

// Lines without newlines.
std::vector<std::string> Render(const v1::GetStatusResponse& response, const Session& session, const Terminal& terminal,
                                int width) {
  std::vector<std::string> lines;
  lines.push_back(absl::StrCat(terminal.Paint(Terminal::Style::kBold, "gateway "), session.options.gateway, "  v",
                               WithoutControls(response.gateway_version()), "  up ",
                               FormatSeconds(response.uptime_seconds()), "  running ", response.running_requests(),
                               "  queued ", response.queued_requests()));
  lines.push_back("");
  if (response.workers().empty()) {
    lines.push_back("no workers: start the gateway with --prefill-worker and --decode-worker");
    return lines;
  }
  std::vector<v1::WorkerStatus> workers(response.workers().begin(), response.workers().end());
  std::sort(workers.begin(), workers.end(), [](const v1::WorkerStatus& a, const v1::WorkerStatus& b) {
    return std::make_tuple(a.model(), b.role(), a.endpoint()) < std::make_tuple(b.model(), a.role(), b.endpoint());
  });
  Table table;
  table.AddColumn("MODEL");
  table.AddColumn("ROLE");
  table.AddColumn("ENDPOINT");
  table.AddColumn("STATE");
  table.AddColumn("RUN", Table::Align::kRight);
  table.AddColumn("QUEUE", Table::Align::kRight);
  table.AddColumn("TOKENS/S", Table::Align::kRight);
  table.AddColumn("STATE MEMORY", Table::Align::kRight);
  table.AddColumn("UP", Table::Align::kRight);
  for (const v1::WorkerStatus& worker : workers) {
    const std::string queued = worker.queued_tokens() > 0
                                   ? absl::StrCat(worker.queued(), " (", worker.queued_tokens(), " tokens)")
                                   : absl::StrCat(worker.queued());
    table.AddRow({{worker.model().empty() ? "-" : WithoutControls(worker.model())},
                  {worker.role()},
                  {WithoutControls(worker.endpoint())},
                  {worker.state(), StateStyle(worker.state())},
                  {absl::StrCat(worker.running())},
                  {queued},
                  {FormatRate(worker.tokens_per_second())},
                  {MemoryCell(worker)},
                  {worker.uptime_seconds() > 0 ? FormatSeconds(worker.uptime_seconds()) : "-"}});
  }
  for (std::string& line : table.Lines(terminal, width)) lines.push_back(std::move(line));
  return lines;
}

absl::StatusOr<v1::GetStatusResponse> Ask(Session& session) {
  BATON_RETURN_IF_ERROR(session.Connect());
  v1::GetStatusResponse response;
  BATON_RETURN_IF_ERROR(session.Call(
      [&](grpc::ClientContext* context) { return session.fleet().GetStatus(context, {}, &response); }, kQuickCall));
  return response;
}

absl::Status Once(Session& session) {
  BATON_ASSIGN_OR_RETURN(const v1::GetStatusResponse response, Ask(session));
  Terminal& terminal = session.terminal();
  if (session.options.json) return terminal.Out(JsonLine(ToJson(response)));
  const int width = terminal.out_is_terminal() ? terminal.columns() : 0;
  return terminal.Out(absl::StrJoin(Render(response, session, terminal, width), "\n") + "\n");
}

// Until Ctrl-C, which is the way to leave and no failure. A gateway that goes away is waited for.
absl::Status Watch(Session& session) {
  Terminal& terminal = session.terminal();
  Interrupt::Scope scope(session.interrupt());
  std::vector<std::string> lines;
  bool seen = false;
  size_t drawn = 0;
  while (true) {
    const absl::StatusOr<v1::GetStatusResponse> response = Ask(session);
    if (session.interrupt().raised()) break;
    if (response.ok()) {
      seen = true;
      lines = Render(*response, session, terminal, terminal.columns());
    } else {
      if (!seen || ErrorReason(response.status()) != kGatewayUnreachable) return response.status();
      if (lines.empty() || lines.back().find("unreachable since") == std::string::npos) {
        lines.push_back("");
        lines.push_back(terminal.Paint(
            Terminal::Style::kRed,
            absl::StrCat("unreachable since ", absl::FormatTime("%H:%M:%S", absl::Now(), absl::LocalTimeZone()),
                         "; the figures above are the last ones")));
      }
    }
    // A screen that is too small shows the first workers.
    const auto room = static_cast<size_t>(std::max(terminal.rows() - 2, 3));
    std::vector<std::string> shown(lines.begin(), lines.begin() + std::min(lines.size(), room));
    if (shown.size() < lines.size()) shown.back() = absl::StrCat("... and ", lines.size() - shown.size() + 1, " more");
    // Long lines are cut, not wrapped, while a frame is drawn: the next one must know how many rows there are.
    std::string frame = absl::StrCat(kNoWrap, "\r");
    if (drawn > 0) absl::StrAppend(&frame, "\033[", drawn, "A");
    for (const std::string& line : shown) absl::StrAppend(&frame, line, "\033[K\n");
    absl::StrAppend(&frame, "\033[J", terminal.Paint(Terminal::Style::kDim, "Ctrl-C leaves"), "\r", kWrap);
    BATON_RETURN_IF_ERROR(terminal.Out(frame));
    drawn = shown.size();
    if (session.interrupt().Sleep(kRefresh)) break;
  }
  const bool terminated = session.interrupt().signal() == SIGTERM;
  BATON_RETURN_IF_ERROR(terminal.Out("\r\033[J"));
  return terminated ? session.interrupt().status() : absl::OkStatus();
}

}  // namespace

Command AddStatus(CLI::App& app, Session& session) {
  auto once = std::make_shared<bool>(false);
  CLI::App* command = app.add_subcommand("status", "Show the workers behind the gateway, live on a terminal");
  command->add_flag("--once", *once, "Show it once also on a terminal");
  return {command, [once, &session] {
            const bool live = session.terminal().out_is_terminal() && !session.options.json && !*once;
            return live ? Watch(session) : Once(session);
          }};
}

}  // namespace baton::cli
