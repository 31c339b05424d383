// etcd as a directory of workers: what workers and gateways share in speaking to it. Workers write their record under a
// lease (etcd_registration.h); gateways read and watch all of them (gateway/etcd_directory.h).
#pragma once

#include <memory>
#include <string>
#include <vector>

#include <grpcpp/channel.h>
#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/rpc/tls_material.h"

namespace baton {

struct EtcdOptions {
  // HOST:PORT of the cluster's members, tried in turn. Empty: etcd is not used.
  std::vector<std::string> endpoints;
  // Keys are PREFIX + role + "/" + boot id.
  std::string prefix = "/baton/workers/";
  // With `ca` the connection is TLS; with both others the client shows a certificate.
  TlsPaths tls;
  // A worker that died is forgotten after this many seconds.
  int lease_seconds = 10;

  bool enabled() const { return !endpoints.empty(); }
};

// --etcd, --etcd-prefix, --etcd-ca, --etcd-cert, --etcd-key. `options` must outlive `app`.
void AddEtcdFlags(CLI::App& app, EtcdOptions* options);

// Loads what options.tls names: an error names the file that cannot be used, or the flag that is missing.
absl::Status CheckEtcdOptions(const EtcdOptions& options);

// To one member. Vanished peers are noticed by pings.
absl::StatusOr<std::shared_ptr<grpc::Channel>> NewEtcdChannel(const EtcdOptions& options, const std::string& endpoint);

// The end of the range of all keys that begin with `prefix`.
std::string EtcdPrefixEnd(std::string prefix);

}  // namespace baton
