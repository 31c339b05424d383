// baton trace: the timeline of one request, across the processes that worked on it.
#include <memory>

#include "absl/strings/str_join.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/status_macros.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/json_output.h"
#include "gateway/cli/trace_json.h"
#include "gateway/cli/trace_picture.h"

namespace baton::cli {
namespace {

// Where no terminal says how wide it is.
constexpr int kPlainWidth = 110;

struct TraceOptions {
  std::string request_id;
  bool attributes = false;
};

absl::Status Trace(const TraceOptions& options, Session& session) {
  BATON_RETURN_IF_ERROR(session.Connect());
  v1::GetTraceRequest request;
  request.set_request_id(options.request_id);
  v1::GetTraceResponse response;
  BATON_RETURN_IF_ERROR(session.Call(
      [&](grpc::ClientContext* context) { return session.fleet().GetTrace(context, request, &response); }, kQuickCall));
  Terminal& terminal = session.terminal();
  if (session.options.json) return terminal.Out(JsonLine(TraceToJson(response)));
  if (response.spans().empty()) return absl::InternalError("the gateway's answer has no spans");
  TracePictureOptions picture;
  picture.width = terminal.out_is_terminal() ? terminal.columns() : kPlainWidth;
  picture.blocks = terminal.out_is_terminal();
  picture.attributes = options.attributes;
  picture.now_unix_nanos = static_cast<uint64_t>(absl::ToUnixNanos(absl::Now()));
  return terminal.Out(absl::StrJoin(TracePicture(response, terminal, picture), "\n") + "\n");
}

}  // namespace

Command AddTrace(CLI::App& app, Session& session) {
  auto options = std::make_shared<TraceOptions>();
  CLI::App* command = app.add_subcommand("trace", "Show where the time of a request went, process by process");
  command
      ->add_option("request_id", options->request_id, "Of a request that this gateway has served lately, or is serving")
      ->type_name("REQUEST_ID")
      ->required();
  command->add_flag("-a,--attributes", options->attributes, "Show all that is known of each span");
  return {command, [options, &session] { return Trace(*options, session); }};
}

}  // namespace baton::cli
