#include "common/rpc/tls.h"

#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <algorithm>
#include <functional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/observe/log_limit.h"

namespace baton {
namespace {

using grpc::experimental::TlsCustomVerificationCheckRequest;

std::vector<std::string> ToStrings(const std::vector<grpc::string_ref>& names) {
  std::vector<std::string> strings;
  strings.reserve(names.size());
  for (const grpc::string_ref& name : names) strings.emplace_back(name.data(), name.size());
  return strings;
}

// Runs after the handshake has found the certificate good.
class PeerVerifier final : public grpc::experimental::ExternalCertificateVerifier {
 public:
  explicit PeerVerifier(std::vector<std::string> allowed) : allowed_(std::move(allowed)) {}

  bool Verify(TlsCustomVerificationCheckRequest* request, std::function<void(grpc::Status)> /*callback*/,
              grpc::Status* status) override {
    const std::vector<std::string> dns_names = ToStrings(request->dns_names());
    const std::vector<std::string> uri_names = ToStrings(request->uri_names());
    const std::string common_name(request->common_name().data(), request->common_name().size());
    if (!IsAllowedPeer(allowed_, dns_names, uri_names, common_name)) {
      *status =
          grpc::Status(grpc::StatusCode::UNAUTHENTICATED, "the peer's certificate has none of the accepted names");
      LogRefusal(dns_names, uri_names, common_name);
    }
    return true;
  }
  void Cancel(TlsCustomVerificationCheckRequest* /*request*/) override {}

 private:
  // The first of each second: peers try again and again.
  void LogRefusal(const std::vector<std::string>& dns_names, const std::vector<std::string>& uri_names,
                  const std::string& common_name) {
    if (!log_limit_.Due()) return;
    std::vector<std::string> names = dns_names;
    names.insert(names.end(), uri_names.begin(), uri_names.end());
    if (names.empty()) names.push_back(common_name);
    Log(Severity::kWarning, "peer_refused")
        .With("names", absl::StrJoin(names, ","))
        .With("accepted", absl::StrJoin(allowed_, ","))
        .With("advice", "--tls-allow-peer says which names may connect");
  }

  const std::vector<std::string> allowed_;
  LogLimit log_limit_;
};

std::shared_ptr<grpc::ServerCredentials> MakeServer(const TlsFlags& flags, const TlsSource& source) {
  grpc::experimental::TlsServerCredentialsOptions options(source.provider());
  options.watch_identity_key_cert_pairs();
  if (!flags.client_ca.empty()) {
    options.watch_root_certs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  }
  if (!flags.allowed_peers.empty()) {
    options.set_certificate_verifier(
        grpc::experimental::ExternalCertificateVerifier::Create<PeerVerifier>(flags.allowed_peers));
    options.set_check_call_host(false);
  }
  return grpc::experimental::TlsServerCredentials(options);
}

std::shared_ptr<grpc::ChannelCredentials> MakeClient(const TlsPaths& paths, const TlsSource& source) {
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(source.provider());
  options.watch_root_certs();
  if (!paths.cert.empty()) options.watch_identity_key_cert_pairs();
  options.set_verify_server_certs(true);
  options.set_certificate_verifier(std::make_shared<grpc::experimental::HostNameCertificateVerifier>());
  return grpc::experimental::TlsCredentials(options);
}

absl::Status CheckPair(const char* cert_flag, const std::string& cert, const char* key_flag, const std::string& key) {
  if (cert.empty() == key.empty()) return absl::OkStatus();
  const char* const given = cert.empty() ? key_flag : cert_flag;
  const char* const missing = cert.empty() ? cert_flag : key_flag;
  return absl::InvalidArgumentError(absl::StrCat(given, " needs ", missing, " as well"));
}

absl::Status CheckFlags(const TlsFlags& flags) {
  BATON_RETURN_IF_ERROR(CheckPair("--tls-cert", flags.cert, "--tls-key", flags.key));
  BATON_RETURN_IF_ERROR(CheckPair("--tls-client-cert", flags.client_cert, "--tls-client-key", flags.client_key));
  if (!flags.client_ca.empty() && flags.cert.empty()) {
    return absl::InvalidArgumentError(
        "--tls-client-ca needs --tls-cert and --tls-key: clients show certificates over TLS only");
  }
  if (!flags.allowed_peers.empty() && flags.client_ca.empty()) {
    return absl::InvalidArgumentError(
        "--tls-allow-peer needs --tls-client-ca: names count only where certificates are checked");
  }
  if (flags.ca.empty() && !(flags.client_cert.empty() && flags.server_name.empty())) {
    return absl::InvalidArgumentError(
        absl::StrCat(flags.client_cert.empty() ? "--tls-server-name" : "--tls-client-cert",
                     " needs --tls-ca: without it connections are made in plain text"));
  }
  return absl::OkStatus();
}

}  // namespace

bool IsAllowedPeer(const std::vector<std::string>& allowed, const std::vector<std::string>& dns_names,
                   const std::vector<std::string>& uri_names, absl::string_view common_name) {
  const auto is_allowed = [&](absl::string_view name) {
    return std::find(allowed.begin(), allowed.end(), name) != allowed.end();
  };
  if (dns_names.empty() && uri_names.empty()) return is_allowed(common_name);
  return std::any_of(dns_names.begin(), dns_names.end(), is_allowed) ||
         std::any_of(uri_names.begin(), uri_names.end(), is_allowed);
}

void AddTlsFlags(CLI::App& app, TlsFlags* flags, const std::string& peers) {
  app.add_option("--tls-cert", flags->cert,
                 "Serve TLS with this certificate (PEM, with its chain); read again when it changes")
      ->type_name("FILE");
  app.add_option("--tls-key", flags->key, "Its private key (PEM)")->type_name("FILE");
  app.add_option("--tls-client-ca", flags->client_ca,
                 "Accept only clients with a certificate of these authorities (mTLS)")
      ->type_name("FILE");
  app.add_option("--tls-allow-peer", flags->allowed_peers,
                 "... and with this DNS or URI name; repeatable (default: any name)")
      ->type_name("NAME");
  app.add_option("--tls-ca", flags->ca,
                 absl::StrCat("Connect to ", peers, " by TLS and trust these authorities (PEM), or \"system\""))
      ->type_name("FILE|system");
  app.add_option("--tls-client-cert", flags->client_cert,
                 absl::StrCat("Certificate to show to ", peers, " (default: --tls-cert)"))
      ->type_name("FILE");
  app.add_option("--tls-client-key", flags->client_key, "Its private key")->type_name("FILE");
  app.add_option("--tls-server-name", flags->server_name,
                 absl::StrCat("Name in the certificates of ", peers, " (default: the host connected to)"))
      ->type_name("NAME");
}

void AddClientTlsFlags(CLI::App& app, TlsFlags* flags) {
  app.add_option("--tls-ca", flags->ca, "Use TLS and trust these authorities (PEM), or \"system\"")
      ->type_name("FILE|system")
      ->envname("BATON_TLS_CA");
  app.add_option("--tls-cert", flags->client_cert, "Certificate to show (PEM), where the gateway wants one")
      ->type_name("FILE")
      ->envname("BATON_TLS_CERT");
  app.add_option("--tls-key", flags->client_key, "Its private key (PEM)")->type_name("FILE")->envname("BATON_TLS_KEY");
  app.add_option("--tls-server-name", flags->server_name,
                 "Name in the gateway's certificate (default: the host of --gateway)")
      ->type_name("NAME")
      ->envname("BATON_TLS_SERVER_NAME");
}

absl::StatusOr<std::shared_ptr<TlsCredentials>> TlsCredentials::Create(const TlsFlags& flags) {
  BATON_RETURN_IF_ERROR(CheckFlags(flags));
  std::shared_ptr<TlsCredentials> credentials(new TlsCredentials);
  if (!flags.cert.empty()) {
    const TlsPaths paths = {flags.cert, flags.key, flags.client_ca};
    BATON_ASSIGN_OR_RETURN(credentials->server_source_, TlsSource::Open("server", paths));
    credentials->server_ = MakeServer(flags, *credentials->server_source_);
  }
  if (!flags.ca.empty()) {
    const bool own = !flags.client_cert.empty();
    const TlsPaths paths = {own ? flags.client_cert : flags.cert, own ? flags.client_key : flags.key, flags.ca};
    BATON_ASSIGN_OR_RETURN(credentials->client_source_, TlsSource::Open("client", paths));
    credentials->client_ = MakeClient(paths, *credentials->client_source_);
    credentials->server_name_ = flags.server_name;
  }
  return credentials;
}

ChannelOptions TlsCredentials::Secure(ChannelOptions options) const {
  options.credentials = client_;
  options.server_name = server_name_;
  return options;
}

void TlsCredentials::SetMetrics(Metrics* metrics) {
  for (TlsSource* const source : {server_source_.get(), client_source_.get()}) {
    if (source != nullptr) source->SetMetrics(metrics);
  }
}

}  // namespace baton
