#include "common/rpc/service_tls.h"

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace baton {

void AddServiceTlsFlags(CLI::App& app, const std::string& prefix, const std::string& service, TlsPaths* paths) {
  app.add_option(absl::StrCat("--", prefix, "-ca"), paths->ca,
                 absl::StrCat("Speak TLS to ", service, " and trust these authorities (PEM), or \"system\""))
      ->type_name("FILE|system");
  app.add_option(absl::StrCat("--", prefix, "-cert"), paths->cert,
                 absl::StrCat("Certificate to show to ", service, " (PEM)"))
      ->type_name("FILE");
  app.add_option(absl::StrCat("--", prefix, "-key"), paths->key, "Its private key (PEM)")->type_name("FILE");
}

absl::Status CheckServiceTls(const std::string& prefix, const TlsPaths& paths) {
  if (paths.cert.empty() != paths.key.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("--", prefix, "-cert and --", prefix, "-key go together"));
  }
  if (paths.ca.empty() && !paths.cert.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat("--", prefix, "-cert needs --", prefix, "-ca, which makes the connection TLS"));
  }
  return LoadTlsMaterial(paths).status();
}

absl::StatusOr<std::shared_ptr<grpc::ChannelCredentials>> ServiceCredentials(const TlsPaths& paths) {
  if (paths.ca.empty()) return grpc::InsecureChannelCredentials();
  BATON_ASSIGN_OR_RETURN(const TlsMaterial material, LoadTlsMaterial(paths));
  return grpc::SslCredentials({material.roots, material.identity, material.identity});
}

}  // namespace baton
