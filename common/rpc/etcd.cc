#include "common/rpc/etcd.h"

#include <grpcpp/create_channel.h>

#include "common/base/status_macros.h"
#include "common/rpc/command_line.h"
#include "common/rpc/service_tls.h"

namespace baton {
namespace {

constexpr int kKeepaliveMs = 5000;
constexpr int kMaxReceiveBytes = 16 << 20;

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
  AddServiceTlsFlags(app, "etcd", "etcd", &options->tls);
}

absl::Status CheckEtcdOptions(const EtcdOptions& options) { return CheckServiceTls("etcd", options.tls); }

absl::StatusOr<std::shared_ptr<grpc::Channel>> NewEtcdChannel(const EtcdOptions& options, const std::string& endpoint) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxReceiveBytes);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveMs);
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
  BATON_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::ChannelCredentials> credentials, ServiceCredentials(options.tls));
  return grpc::CreateCustomChannel(endpoint, credentials, arguments);
}

std::string EtcdPrefixEnd(std::string prefix) {
  while (!prefix.empty() && static_cast<unsigned char>(prefix.back()) == 0xff) prefix.pop_back();
  // All keys from `prefix` on.
  if (prefix.empty()) return std::string(1, '\0');
  ++prefix.back();
  return prefix;
}

}  // namespace baton
