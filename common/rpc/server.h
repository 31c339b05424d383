// A gRPC server as every Baton process runs it: health service, reflection, TLS, limits on what a peer may make it
// hold, a port that may be 0, and an orderly end.
//
//   RpcServer server({.listen = "127.0.0.1:0"});
//   server.AddService(&service);
//   BATON_RETURN_IF_ERROR(server.Start());        // UNAVAILABLE "127.0.0.1:7000 is already in use ..."
//   server.SetServing(true);
//   WaitForShutdownSignal();
//   server.SetServing(false);                     // health NOT_SERVING; services refuse new calls themselves
//   gate.Drain(grace);                            // see drain_gate.h
//   server.Stop(absl::Seconds(1));                // cancels what is left
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server.h>
#include <grpcpp/server_builder.h>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/rpc/listener.h"

namespace baton {

// What one peer, and all together, may make a server hold. tests/e2e/hostile_test.py tries.
struct ServerLimits {
  // Of the metadata of one call.
  int max_metadata_bytes = 16 << 10;
  // Calls under way on one connection; a client keeps further ones waiting.
  int max_streams_per_connection = 1024;
  // Open files of this process at which further connections are turned away. 0: nearly as many as it may open.
  int max_connections = 0;
  // Calls that clients reset, a second; beyond it, the connections that most of them come from are ended (ResetGuard).
  // 0: no limit, for servers whose clients are gateways, which pass on what others cancel.
  int64_t max_resets = 2000;
  // A connection that has not got through its handshakes by then is dropped.
  absl::Duration handshake_timeout = absl::Seconds(10);
  // Connections without calls are closed after this long; all are asked to make way for a new one, and closed when
  // their calls have ended, at this age. Clients that follow gRPC's rules notice nothing.
  absl::Duration max_connection_idle = absl::InfiniteDuration();
  absl::Duration max_connection_age = absl::InfiniteDuration();
  // Of connections and messages on their way in and out; beyond it, connections are dropped. 0: no limit.
  int64_t max_buffer_bytes = 0;
};

struct RpcServerOptions {
  // host:port; port 0 picks a free one.
  std::string listen = "127.0.0.1:0";
  int max_receive_bytes = 4 << 20;
  // Null: plain text.
  std::shared_ptr<grpc::ServerCredentials> credentials;
  ServerLimits limits;
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
  int port() const { return listener_.port(); }
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
  Listener listener_;
};

}  // namespace baton
