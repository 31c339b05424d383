// baton version: this program's and, if one answers, the gateway's.
#include "common/base/version.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/json_output.h"

namespace baton::cli {
namespace {

bool Refused(const absl::Status& status) {
  return status.code() == absl::StatusCode::kPermissionDenied || status.code() == absl::StatusCode::kUnauthenticated;
}

absl::Status Version(Session& session) {
  v1::GetStatusResponse response;
  absl::Status reached = session.Connect();
  if (reached.ok()) {
    reached = session.Call(
        [&](grpc::ClientContext* context) { return session.fleet().GetStatus(context, {}, &response); }, kQuickCall);
  }
  if (session.options.json) {
    return session.terminal().Out(
        JsonLine({{"client", kVersion}, {"gateway", reached.ok() ? Json(response.gateway_version()) : Json(nullptr)}}));
  }
  return session.terminal().Out(
      absl::StrCat("baton ", kVersion, "\n",
                   reached.ok()       ? absl::StrCat("gateway ", WithoutControls(response.gateway_version()), " at ")
                   : Refused(reached) ? "gateway of a version that it tells operators only at "
                                      : "no gateway at ",
                   session.options.gateway, "\n"));
}

}  // namespace

Command AddVersion(CLI::App& app, Session& session) {
  CLI::App* command = app.add_subcommand("version", "Show the versions of this program and of the gateway");
  return {command, [&session] { return Version(session); }};
}

}  // namespace baton::cli
