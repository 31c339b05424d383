// A gRPC server as every Baton process runs it: health service, reflection, message limits, a port that may be 0, and
// an orderly end.
//
//   RpcServer server({.listen = "127.0.0.1:0"});
//   server.AddService(&service);
//   BATON_RETURN_IF_ERROR(server.Start());        // UNAVAILABLE "127.0.0.1:7000 is already in use ..."
//   server.SetServing(true);
//   WaitForShutdownSignal();
//   server.SetServing(false);                     // health NOT_SERVING; new calls are refused by the services
//   themselves gate.Drain(grace);                            // see drain_gate.h server.Stop(absl::Seconds(1)); //
//   cancels what is left
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace baton {

struct RpcServerOptions {
  // host:port; port 0 picks a free one.
  std::string listen = "127.0.0.1:0";
  int max_receive_bytes = 4 << 20;
};

class RpcServer {
 public:
  explicit RpcServer(RpcServerOptions options);
  ~RpcServer();
  RpcServer(const RpcServer&) = delete;

  // Before Start; the service must outlive the server. `name` (Inference::service_full_name()): what health checks may
  // ask for besides the whole server.
  void AddService(grpc::Service* service, const std::string& name = "");
  absl::Status Start();
  int port() const { return port_; }
  // host (as given) and the bound port.
  std::string address() const;
  void SetServing(bool serving);
  // Cancels running calls after `grace` and waits for their reactors to finish.
  void Stop(absl::Duration grace);

 private:
  RpcServerOptions options_;
  std::vector<grpc::Service*> services_;
  std::vector<std::string> service_names_;
  std::unique_ptr<grpc::Server> server_;
  int port_ = 0;
};

}  // namespace baton
