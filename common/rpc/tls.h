// TLS between all of Baton's processes and to clients: flags, checked and turned into gRPC's credentials.
//
//   TlsFlags flags;
//   AddTlsFlags(app, &flags);
//   ...
//   BATON_ASSIGN_OR_RETURN(const std::shared_ptr<TlsCredentials> tls, TlsCredentials::Create(flags));
//   server_options.credentials = tls->server();
//   const ChannelOptions options = tls->Secure(ChannelOptions());
//
// A server with --tls-cert speaks TLS; with --tls-client-ca also it accepts only clients that show a certificate of
// those authorities, and with --tls-allow-peer only those named so. What is refused never gets beyond the handshake:
// that holds for every service on the port, health checks and reflection included.
//
// A client with --tls-ca speaks TLS and checks that the server's certificate carries the name of the host it wanted to
// reach, or --tls-server-name. All files are read again when they change (tls_source.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/observe/metrics.h"
#include "common/rpc/channel.h"
#include "common/rpc/tls_source.h"

namespace baton {

struct TlsFlags {
  // Of the port: PEM files.
  std::string cert;
  std::string key;
  std::string client_ca;
  // DNS or URI names of clients. Empty: any that client_ca has signed.
  std::vector<std::string> allowed_peers;
  // Of connections to other processes: a PEM file, or "system". Empty: no TLS.
  std::string ca;
  // Empty: those of the port, if it has any.
  std::string client_cert;
  std::string client_key;
  // Empty: the host that is connected to.
  std::string server_name;
};

// Of servers. `peers`: what they connect to, for --help.
void AddTlsFlags(CLI::App& app, TlsFlags* flags, const std::string& peers);
// Of pure clients: --tls-cert and --tls-key are what they show.
void AddClientTlsFlags(CLI::App& app, TlsFlags* flags);

class TlsCredentials {
 public:
  // INVALID_ARGUMENT when flags do not go together or a file is unusable, in one line that names it.
  static absl::StatusOr<std::shared_ptr<TlsCredentials>> Create(const TlsFlags& flags);

  // Null: no TLS.
  const std::shared_ptr<grpc::ServerCredentials>& server() const { return server_; }
  // `options` for connections with these credentials.
  ChannelOptions Secure(ChannelOptions options) const;
  // When certificates expire, and reloads. Null: no more.
  void SetMetrics(Metrics* metrics);

 private:
  TlsCredentials() = default;

  std::unique_ptr<TlsSource> server_source_;
  std::unique_ptr<TlsSource> client_source_;
  std::shared_ptr<grpc::ServerCredentials> server_;
  std::shared_ptr<grpc::ChannelCredentials> client_;
  std::string server_name_;
};

// Shows `credentials` in `metrics` for as long as it lives. Both must outlive it.
class TlsMetrics {
 public:
  TlsMetrics(TlsCredentials* credentials, Metrics* metrics) : credentials_(credentials) {
    credentials_->SetMetrics(metrics);
  }
  ~TlsMetrics() { credentials_->SetMetrics(nullptr); }
  TlsMetrics(const TlsMetrics&) = delete;

 private:
  TlsCredentials* const credentials_;
};

// Whether a certificate with these names is one of `allowed`: by its DNS and URI names, and by its common name if it
// has none of those.
bool IsAllowedPeer(const std::vector<std::string>& allowed, const std::vector<std::string>& dns_names,
                   const std::vector<std::string>& uri_names, absl::string_view common_name);

}  // namespace baton
