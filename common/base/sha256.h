// SHA-256 (FIPS 180-4), for what must not be found out or made up from its hash: names and identities of sessions.
//
//   std::string digest = Sha256("abc");      // 32 raw bytes
#pragma once

#include <cstddef>
#include <string>

#include "absl/strings/string_view.h"

namespace baton {

inline constexpr size_t kSha256Bytes = 32;

std::string Sha256(absl::string_view data);

}  // namespace baton
