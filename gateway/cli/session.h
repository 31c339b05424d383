// What every command works with: the global options, the terminal, Ctrl-C, and calls to the gateway whose failures come
// back as one status that ExitCodeFor and PrintFailure understand.
//
//   baton::v1::ListModelsResponse models;
//   BATON_RETURN_IF_ERROR(session.Connect());
//   BATON_RETURN_IF_ERROR(session.Call([&](grpc::ClientContext* context) {
//     return session.inference().ListModels(context, {}, &models);
//   }, kQuickCall));
#pragma once

#include <memory>
#include <string>

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "baton/v1/inference.grpc.pb.h"
#include "common/rpc/tls.h"
#include "gateway/cli/interrupt.h"
#include "gateway/cli/terminal.h"

namespace baton::cli {

struct GlobalOptions {
  std::string gateway = "127.0.0.1:7000";
  // The file goes before the key. Neither: none is sent.
  std::string api_key;
  std::string api_key_file;
  TlsFlags tls;
  // Empty: the only one, or see ChooseModel.
  std::string model;
  bool json = false;
  // 0: none, but calls that answer at once get kQuickCall.
  double timeout_seconds = 0;
};

// Deadline of calls that compute nothing, unless --timeout says otherwise.
inline constexpr absl::Duration kQuickCall = absl::Seconds(10);

class Session {
 public:
  Session(Terminal& terminal, Interrupt& interrupt) : terminal_(terminal), interrupt_(interrupt) {}

  GlobalOptions options;
  Terminal& terminal() { return terminal_; }
  Interrupt& interrupt() { return interrupt_; }

  // A person is watching: notes on stderr are for them.
  bool interactive() const { return terminal_.err_is_terminal() && !options.json; }

  // Returns once the connection stands; cheap when it already does.
  //   INVALID_ARGUMENT  --gateway is not an address, or the API key cannot be used
  //   UNAVAILABLE       reason GATEWAY_UNREACHABLE
  //   CANCELLED         reason INTERRUPTED
  absl::Status Connect();
  baton::v1::Inference::Stub& inference() { return *inference_; }
  baton::v1::Fleet::Stub& fleet() { return *fleet_; }
  // For other services than the gateway's.
  const std::shared_ptr<grpc::Channel>& channel() const { return channel_; }

  // Runs `call` with a context that carries the deadline and that Ctrl-C cancels. Connect first.
  absl::Status Call(absl::FunctionRef<grpc::Status(grpc::ClientContext*)> call,
                    absl::Duration default_timeout = absl::InfiniteDuration());
  // What a finished call's status means here: adds the reasons of exit_code.h.
  absl::Status Explain(const grpc::Status& status);

 private:
  // Why there is no connection: what gRPC says of it, where TLS is to be spoken.
  std::string ConnectionProblem();
  // The key that every call carries; empty: none.
  absl::StatusOr<std::string> ReadApiKey() const;

  Terminal& terminal_;
  Interrupt& interrupt_;
  // Set by Connect.
  std::string api_key_;
  std::shared_ptr<TlsCredentials> tls_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<baton::v1::Inference::Stub> inference_;
  std::unique_ptr<baton::v1::Fleet::Stub> fleet_;
};

}  // namespace baton::cli
