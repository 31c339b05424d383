// The listening sockets of a server: takes connections and hands them to gRPC.
//
// gRPC 1.51 can listen by itself, but gives a listening socket up for good when accept fails, as it does when the
// process has no file descriptor left: whoever opens connections enough makes such a server deaf until it is restarted.
// This one waits until there are descriptors again. It also knows how many connections are enough, and ends those whose
// peer floods the server (ResetGuard).
//
//   Listener listener;
//   BATON_RETURN_IF_ERROR(listener.Bind("0.0.0.0:7000"));
//   auto acceptor = builder.experimental().AddExternalConnectionAcceptor(FROM_FD, credentials);
//   server = builder.BuildAndStart();
//   listener.Start(std::move(acceptor), limits);
//   ...
//   listener.Stop();                    // before the server: refuses new connections, leaves running ones alone
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <thread>

#include <grpcpp/server_builder.h>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "common/base/file_descriptor.h"
#include "common/base/listening_sockets.h"
#include "common/observe/log_limit.h"
#include "common/rpc/reset_guard.h"

namespace baton {

struct ListenerLimits {
  // Further connections are closed at once. What counts is the process's open files of all kinds, which are few beside
  // a server's connections.
  int max_connections = 1024;
  // Calls reset a second, of all clients together; 0: no limit.
  int64_t max_resets = 0;
  // Calls under way on one connection: what the server tells its clients.
  int64_t max_streams = 1024;
};

class Listener {
 public:
  using Acceptor = std::unique_ptr<grpc::experimental::ExternalConnectionAcceptor>;

  Listener() = default;
  ~Listener() { Stop(); }
  Listener(const Listener&) = delete;

  // `address`: host:port, on all addresses of the host; port 0 picks a free one. UNAVAILABLE with what to do.
  absl::Status Bind(const std::string& address);
  int port() const { return listening_.port; }
  void Start(Acceptor acceptor, const ListenerLimits& limits);
  void Stop();

 private:
  void Loop();
  void Guard();
  // Takes what waits at a socket. False: there are no descriptors left.
  bool AcceptAll(int socket);
  void HandOver(int socket, int connection);

  ListeningSockets listening_;
  Acceptor acceptor_;
  ListenerLimits limits_;
  absl::optional<ResetGuard> guard_;
  LogLimit log_limit_;
  // Written to when the thread has to end.
  FileDescriptor stop_event_;
  std::thread thread_;
};

// So many that the process has files left for other things; raises its limit to what the system allows.
int MostConnections();

}  // namespace baton
