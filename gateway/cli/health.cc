// baton health: whether a Baton process serves, for health checks of containers and scripts. Gateways and workers
// alike.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/format.h"
#include "gateway/cli/json_output.h"
#include "grpc/health/v1/health.grpc.pb.h"

namespace baton::cli {
namespace {

using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;

absl::Status Health(Session& session, const std::string& service) {
  BATON_RETURN_IF_ERROR(session.Connect());
  HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  const std::unique_ptr<grpc::health::v1::Health::Stub> health = grpc::health::v1::Health::NewStub(session.channel());
  const absl::Status asked = session.Call(
      [&](grpc::ClientContext* context) { return health->Check(context, request, &response); }, kQuickCall);
  if (asked.code() == absl::StatusCode::kNotFound) {
    return absl::NotFoundError(absl::StrCat("the server at ", session.options.gateway, " has no service ",
                                            Quoted(service), " (leave out --service to ask for all of it)"));
  }
  BATON_RETURN_IF_ERROR(asked);
  const std::string status = HealthCheckResponse::ServingStatus_Name(response.status());
  BATON_RETURN_IF_ERROR(
      session.terminal().Out(session.options.json ? JsonLine({{"status", status}}) : absl::StrCat(status, "\n")));
  if (response.status() == HealthCheckResponse::SERVING) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("the server at ", session.options.gateway, " is not serving: it drains or has not begun"));
}

}  // namespace

Command AddHealth(CLI::App& app, Session& session) {
  auto service = std::make_shared<std::string>();
  CLI::App* command = app.add_subcommand(
      "health", "Exit with 0 when the gateway or worker at --gateway serves; for health checks of containers");
  command->add_option("--service", *service, "One service of it, such as baton.v1.Inference (default: all of it)")
      ->type_name("NAME");
  return {command, [service, &session] { return Health(session, *service); }};
}

}  // namespace baton::cli
