#include "common/rpc/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/resource_quota.h>

#include <algorithm>
#include <chrono>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace baton {

namespace {

constexpr int kFloodReadBytes = 16 << 10;

// The largest number stands for no end.
int Milliseconds(absl::Duration duration) {
  return static_cast<int>(std::min<int64_t>(absl::ToInt64Milliseconds(duration), std::numeric_limits<int>::max()));
}

void SetLimits(const ServerLimits& limits, grpc::ServerBuilder* builder) {
  builder->AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, limits.max_metadata_bytes);
  builder->AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, limits.max_streams_per_connection);
  builder->AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, Milliseconds(limits.handshake_timeout));
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_IDLE_MS, Milliseconds(limits.max_connection_idle));
  builder->AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, Milliseconds(limits.max_connection_age));
  // A read is worked off as a whole before anything else is: else one would take in what a flood sends for a second.
  if (limits.max_resets > 0) builder->AddChannelArgument(GRPC_ARG_TCP_MAX_READ_CHUNK_SIZE, kFloodReadBytes);
  if (limits.max_buffer_bytes == 0) return;
  grpc::ResourceQuota quota("server");
  quota.Resize(static_cast<size_t>(limits.max_buffer_bytes));
  builder->SetResourceQuota(quota);
}

}  // namespace

RpcServer::RpcServer(RpcServerOptions options) : options_(std::move(options)) {}

RpcServer::~RpcServer() { Stop(absl::ZeroDuration()); }

void RpcServer::AddService(grpc::Service* service, const std::string& name) {
  services_.push_back(service);
  if (!name.empty()) service_names_.push_back(name);
}

absl::Status RpcServer::Start() {
  BATON_CHECK(server_ == nullptr);
  BATON_RETURN_IF_ERROR(listener_.Bind(options_.listen));
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  // Peers ping idle connections to notice dead hosts (ChannelOptions); do not punish them.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 5000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  builder.SetMaxReceiveMessageSize(options_.max_receive_bytes);
  SetLimits(options_.limits, &builder);
  const std::shared_ptr<grpc::ServerCredentials> credentials =
      options_.credentials != nullptr ? options_.credentials : grpc::InsecureServerCredentials();
  Listener::Acceptor acceptor = builder.experimental().AddExternalConnectionAcceptor(
      grpc::ServerBuilder::experimental_type::ExternalConnectionType::FROM_FD, credentials);
  for (grpc::Service* service : services_) builder.RegisterService(service);
  server_ = builder.BuildAndStart();
  if (server_ == nullptr) return absl::InternalError("gRPC cannot start a server");
  SetServing(false);
  const int most = MostConnections();
  const int wanted = options_.limits.max_connections;
  ListenerLimits limits;
  limits.max_connections = wanted > 0 ? std::min(wanted, most) : most;
  limits.max_resets = options_.limits.max_resets;
  limits.max_streams = options_.limits.max_streams_per_connection;
  listener_.Start(std::move(acceptor), limits);
  return absl::OkStatus();
}

std::string RpcServer::address() const {
  const size_t colon = options_.listen.rfind(':');
  return absl::StrCat(options_.listen.substr(0, colon), ":", port());
}

void RpcServer::SetServing(bool serving) {
  if (server_ == nullptr) return;
  grpc::HealthCheckServiceInterface* const health = server_->GetHealthCheckService();
  // Services nobody asked about yet are not covered by the call for all of them.
  for (const std::string& name : service_names_) health->SetServingStatus(name, serving);
  health->SetServingStatus(serving);
}

void RpcServer::Stop(absl::Duration grace) {
  if (server_ == nullptr) return;
  listener_.Stop();
  server_->Shutdown(std::chrono::system_clock::now() + absl::ToChronoMicroseconds(grace));
  server_->Wait();
  server_.reset();
}

}  // namespace baton
