// Client channels between Baton's processes.
#pragma once

#include <memory>
#include <string>

#include <grpcpp/channel.h>
#include <grpcpp/security/credentials.h>

namespace baton {

struct ChannelOptions {
  // Null: plain text. TlsCredentials::Secure sets both.
  std::shared_ptr<grpc::ChannelCredentials> credentials;
  // What the server's certificate has to be for. Empty: the target's host.
  std::string server_name;
  int max_receive_bytes = 64 << 20;
  // Calls between Baton's processes, which try again themselves and never compress: gRPC's retries, compression and
  // call counts, an eighth of what a call costs, are left out. Off towards others, and for users' programs.
  bool within_fleet = true;
  // What a peer may send on one call before it is read. 0: gRPC's own choice, from 64 KiB on. Little makes a peer whose
  // messages are not read feel it soon.
  int call_window_bytes = 0;
  // A peer that vanished without closing the connection is noticed after about keepalive_ms + keepalive_timeout_ms.
  int keepalive_ms = 10000;
  int keepalive_timeout_ms = 5000;
  // First and largest wait between connection attempts.
  int min_backoff_ms = 100;
  int max_backoff_ms = 2000;
  // How long one connection attempt may take.
  int connect_timeout_ms = 3000;
};

// Lazy: connects at first use. Each call makes its own connection (not shared with other channels to the same target).
std::shared_ptr<grpc::Channel> NewChannel(const std::string& target, const ChannelOptions& options = {});

}  // namespace baton
