// TLS to a service that is not Baton's own, such as etcd or a collector of traces; tls.h is for Baton's hops.
//
//   AddServiceTlsFlags(app, "etcd", "etcd", &paths);               // --etcd-ca, --etcd-cert, --etcd-key
//   BATON_RETURN_IF_ERROR(CheckServiceTls("etcd", paths));
//   BATON_ASSIGN_OR_RETURN(auto credentials, ServiceCredentials(paths));
#pragma once

#include <memory>
#include <string>

#include <grpcpp/security/credentials.h>
#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/rpc/tls_material.h"

namespace baton {

// With `ca` the connection is TLS; with both others the client shows a certificate. `service`: as help calls it.
// `paths` must outlive `app`.
void AddServiceTlsFlags(CLI::App& app, const std::string& prefix, const std::string& service, TlsPaths* paths);

// Loads what `paths` names: an error names the file that cannot be used, or the flag that is missing.
absl::Status CheckServiceTls(const std::string& prefix, const TlsPaths& paths);

// Of the files as they are now; for plain text without `ca`.
absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ServiceCredentials(const TlsPaths& paths);

}  // namespace baton
