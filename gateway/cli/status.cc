// baton status: what the gateway and its workers are doing, live while a person watches.
#include <signal.h>

#include <cstdlib>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/status_macros.h"
#include "common/rpc/real_range.h"
#include "common/rpc/status_mapping.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/exit_code.h"
#include "gateway/cli/json_output.h"
#include "gateway/cli/live_screen.h"
#include "gateway/cli/status_columns.h"
#include "gateway/cli/status_json.h"
#include "gateway/cli/status_picture.h"
#include "gateway/cli/status_poller.h"
#include "gateway/cli/status_view.h"

namespace baton::cli {
namespace {

// While watching: a gateway that hangs is to be noticed.
constexpr absl::Duration kWatchTimeout = absl::Seconds(3);

struct StatusOptions {
  bool once = false;
  std::string sort = "model";
  std::string role = "all";
  StatusView view;
};

absl::StatusOr<v1::GetStatusResponse> Ask(Session& session, double window_seconds, absl::Duration timeout) {
  BATON_RETURN_IF_ERROR(session.Connect());
  v1::GetStatusRequest request;
  request.set_window_seconds(window_seconds);
  v1::GetStatusResponse response;
  BATON_RETURN_IF_ERROR(session.Call(
      [&](grpc::ClientContext* context) { return session.fleet().GetStatus(context, request, &response); }, timeout));
  return response;
}

absl::Status Once(const StatusView& view, Session& session) {
  BATON_ASSIGN_OR_RETURN(const v1::GetStatusResponse response, Ask(session, view.window_seconds, kQuickCall));
  Terminal& terminal = session.terminal();
  if (session.options.json) return terminal.Out(JsonLine(ToJson(response)));
  StatusPictureOptions options;
  options.gateway = session.options.gateway;
  options.bars = terminal.out_is_terminal();
  if (terminal.out_is_terminal()) options.width = terminal.columns();
  return terminal.Out(absl::StrJoin(DrawStatus(response, view, options, terminal).lines, "\n") + "\n");
}

// Until q or Ctrl-C. A gateway that goes away is waited for.
class Watch {
 public:
  Watch(const StatusView& view, Session& session) : view_(view), session_(session) {}

  absl::Status Run() {
    Interrupt::Scope scope(session_.interrupt());
    // What is wrong from the start is told where it stays to be read.
    BATON_ASSIGN_OR_RETURN(response_, Ask(session_, view_.window_seconds, kQuickCall));
    StatusPoller poller([this](double window_seconds) { return Ask(session_, window_seconds, kWatchTimeout); },
                        Polling());
    const absl::Status status = WatchScreen(poller);
    // Nobody waits for an answer any more.
    session_.interrupt().RaiseOnce();
    return status;
  }

 private:
  StatusPolling Polling() const { return {absl::Seconds(view_.interval_seconds), view_.window_seconds, view_.paused}; }

  absl::Status WatchScreen(StatusPoller& poller) {
    LiveScreen screen(session_.terminal(), session_.interrupt());
    while (true) {
      BATON_RETURN_IF_ERROR(screen.Draw(Lines()));
      const LiveScreen::Event event = screen.Wait(poller.fd());
      if (event.interrupted) {
        return session_.interrupt().signal() == SIGTERM ? session_.interrupt().status() : absl::OkStatus();
      }
      if (event.closed) return absl::OkStatus();
      for (const int key : event.keys) {
        if (!view_.Obey(key, response_)) return absl::OkStatus();
      }
      if (!event.keys.empty()) poller.Set(Polling());
      if (event.ready) BATON_RETURN_IF_ERROR(TakeAnswer(poller));
    }
  }

  absl::Status TakeAnswer(StatusPoller& poller) {
    absl::optional<StatusPoller::Answer> answer = poller.Take();
    if (!answer.has_value()) return absl::OkStatus();
    if (answer->ok()) {
      response_ = *std::move(*answer);
      trouble_.clear();
      return absl::OkStatus();
    }
    const absl::Status& status = answer->status();
    const bool unreachable = ErrorReason(status) == kGatewayUnreachable;
    if (!unreachable && !absl::IsDeadlineExceeded(status)) return status;
    if (trouble_.empty()) {
      trouble_ = absl::StrCat(unreachable ? "unreachable since " : "without an answer since ",
                              absl::FormatTime("%H:%M:%S", absl::Now(), absl::LocalTimeZone()),
                              "; the figures are the last ones");
    }
    return absl::OkStatus();
  }

  std::vector<std::string> Lines() {
    const Terminal& terminal = session_.terminal();
    StatusPictureOptions options;
    options.gateway = session_.options.gateway;
    options.width = terminal.columns();
    options.rows = terminal.rows();
    options.live = true;
    options.bars = true;
    options.trouble = trouble_;
    StatusPicture picture = DrawStatus(response_, view_, options, terminal);
    view_.page = picture.page;
    view_.first = picture.first;
    return std::move(picture.lines);
  }

  StatusView view_;
  Session& session_;
  v1::GetStatusResponse response_;
  std::string trouble_;
};

bool CanWatch(Session& session, const StatusOptions& options) {
  const char* const term = std::getenv("TERM");
  const bool dumb = term == nullptr || std::string(term) == "dumb";
  return session.terminal().out_is_terminal() && !dumb && !session.options.json && !options.once;
}

absl::Status Status(const StatusOptions& options, Session& session) {
  StatusView view = options.view;
  view.sort = FindStatusColumn(options.sort);
  if (view.sort < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("--sort: there is no column \"", PlainName(options.sort), "\"; there are ", StatusColumnNames()));
  }
  for (const StatusView::Role role : {StatusView::Role::kPrefill, StatusView::Role::kDecode}) {
    if (options.role == StatusRoleName(role)) view.role = role;
  }
  return CanWatch(session, options) ? Watch(view, session).Run() : Once(view, session);
}

}  // namespace

Command AddStatus(CLI::App& app, Session& session) {
  auto options = std::make_shared<StatusOptions>();
  CLI::App* command = app.add_subcommand(
      "status", "Show what the gateway and its workers are doing: live on a terminal, where ? lists the keys");
  command->add_flag("--once", options->once, "Show it once also on a terminal");
  command->add_option("--interval", options->view.interval_seconds, "How often it is refreshed (default 1)")
      ->type_name("SECONDS")
      ->check(RealRange(0.1, 3600).description(""));
  command
      ->add_option("--window", options->view.window_seconds,
                   "How far back rates and latencies go, at most 60 (default 10)")
      ->type_name("SECONDS")
      ->check(RealRange(kShortestStatusWindow, kLongestStatusWindow).description(""));
  command
      ->add_option("--sort", options->sort, absl::StrCat("Sort workers by ", StatusColumnNames(), " (default model)"))
      ->type_name("COLUMN");
  command->add_flag("--reverse", options->view.reversed, "Sort the other way round");
  command->add_option("--role", options->role, "Show only workers of this role: prefill, decode or all (default)")
      ->type_name("ROLE")
      ->check(CLI::IsMember({"prefill", "decode", "all"}).description(""));
  return {command, [options, &session] { return Status(*options, session); }};
}

}  // namespace baton::cli
