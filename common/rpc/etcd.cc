#include "common/rpc/etcd.h"

#include <fstream>
#include <iterator>

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/rpc/worker_flags.h"

namespace baton {
namespace {

constexpr int kKeepaliveMs = 5000;
constexpr int kMaxReceiveBytes = 16 << 20;

absl::StatusOr<std::string> ReadPem(const std::string& path) {
  if (path.empty()) return std::string();
  std::ifstream file(path, std::ios::binary);
  std::string text((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  if (!file || text.empty()) return absl::InvalidArgumentError(absl::StrCat("cannot read ", path));
  return text;
}

absl::StatusOr<grpc::SslCredentialsOptions> ReadCredentials(const EtcdOptions& options) {
  grpc::SslCredentialsOptions credentials;
  BATON_ASSIGN_OR_RETURN(credentials.pem_root_certs, ReadPem(options.ca));
  BATON_ASSIGN_OR_RETURN(credentials.pem_cert_chain, ReadPem(options.certificate));
  BATON_ASSIGN_OR_RETURN(credentials.pem_private_key, ReadPem(options.key));
  return credentials;
}

}  // namespace

void AddEtcdFlags(CLI::App& app, EtcdOptions* options) {
  app.add_option("--etcd", options->endpoints, "A member of the etcd cluster that knows the workers; repeatable")
      ->check(IsHostPort())
      ->type_name("HOST:PORT");
  app.add_option("--etcd-prefix", options->prefix, "Where in etcd the workers are")
      ->check([](const std::string& text) {
        const bool usable = text.size() > 1 && text.size() <= 256 && text.back() == '/';
        return usable ? std::string() : std::string("must be up to 256 characters and end with a slash");
      })
      ->type_name("KEY/")
      ->capture_default_str();
  app.add_option("--etcd-ca", options->ca, "Speak TLS to etcd; PEM file of who signed its certificate")
      ->type_name("FILE");
  app.add_option("--etcd-cert", options->certificate, "PEM file of the certificate to show etcd")->type_name("FILE");
  app.add_option("--etcd-key", options->key, "PEM file of that certificate's key")->type_name("FILE");
}

absl::Status CheckEtcdOptions(const EtcdOptions& options) {
  if (options.certificate.empty() != options.key.empty()) {
    return absl::InvalidArgumentError("--etcd-cert and --etcd-key go together");
  }
  if (options.ca.empty() && !options.certificate.empty()) {
    return absl::InvalidArgumentError("--etcd-cert needs --etcd-ca, which makes the connection TLS");
  }
  return ReadCredentials(options).status();
}

absl::StatusOr<std::shared_ptr<grpc::Channel>> NewEtcdChannel(const EtcdOptions& options, const std::string& endpoint) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxReceiveBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  if (options.ca.empty()) return grpc::CreateCustomChannel(endpoint, grpc::InsecureChannelCredentials(), arguments);
  BATON_ASSIGN_OR_RETURN(const grpc::SslCredentialsOptions credentials, ReadCredentials(options));
  return grpc::CreateCustomChannel(endpoint, grpc::SslCredentials(credentials), arguments);
}

std::string EtcdPrefixEnd(std::string prefix) {
  while (!prefix.empty() && static_cast<unsigned char>(prefix.back()) == 0xff) prefix.pop_back();
  // All keys from `prefix` on.
  if (prefix.empty()) return std::string(1, '\0');
  ++prefix.back();
  return prefix;
}

}  // namespace baton
