// Keys and certificates as files give them, checked before anything is built on them.
//
//   absl::StatusOr<TlsMaterial> material = LoadTlsMaterial({.cert = "tls.crt", .key = "tls.key", .ca = "ca.crt"});
//     an error that names the file: cannot be read, holds no certificate, the key is another certificate's, expired ...
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace baton {

// For `ca`: the certificate authorities that the operating system trusts.
inline constexpr char kSystemCas[] = "system";

// PEM files. `cert` and `key` go together; what is empty is not used.
struct TlsPaths {
  // The process's own certificate first, then the intermediate ones that its peers may not have.
  std::string cert;
  // Not encrypted.
  std::string key;
  std::string ca;

  // Those that are files.
  std::vector<std::string> Files() const;
};

struct TlsMaterial {
  // Key and certificates in one text, so that they are replaced as one. Empty without `cert`.
  std::string identity;
  // Empty without `ca`.
  std::string roots;
  // When the certificate stops being valid; InfiniteFuture without one.
  absl::Time expires = absl::InfiniteFuture();
};

// Also refuses certificates that are not valid at `now`.
absl::StatusOr<TlsMaterial> LoadTlsMaterial(const TlsPaths& paths, absl::Time now = absl::Now());

}  // namespace baton
