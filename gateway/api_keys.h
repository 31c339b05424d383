// The file of API keys: who may call this gateway, and how much. One key a line:
//
//   # name   SHA-256 of the key, in hex                                        limits, any of them left out
//   alice    5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8  concurrent=8 tokens_per_minute=100000
//   bob      2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824  models=gemma-2b,tiny max_priority=0
//   ops      486ea46224d1bb4fb680f34f7c9ad96a8f24ec88be73ea8e5a6c65260e9cb8a7  operator=yes expires=2027-01-31
//
// `baton key new NAME` makes a key and its line. Several lines may have one name: keys of one client, which share its
// limits; so a client changes keys without a moment in which none works.
//
// The hashes have no salt and are quick, since what they hide cannot be guessed: a key is 256 random bits. Salts and
// slow hashes are for passwords, and a slow one would let anybody keep the gateway busy with wrong keys.
//
//   BATON_ASSIGN_OR_RETURN(const std::vector<ApiKey> keys, ParseApiKeys(text));
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/rpc/worker_request.h"

namespace baton {

inline constexpr size_t kMaxApiKeyFileBytes = size_t{16} << 20;
// Longer ones are not looked at: a key that we make has 49 bytes.
inline constexpr size_t kMaxApiKeyBytes = 512;

// What one client may do; all of its keys together. Zero: as much as it likes.
struct ClientLimits {
  // Requests at a time.
  int64_t concurrent = 0;
  int64_t requests_per_minute = 0;
  // Tokens of prompts and answers.
  int64_t tokens_per_minute = 0;
  // Sorted. Empty: all.
  std::vector<std::string> models;
  // Largest `priority` of a request.
  int max_priority = kMaxPriority;
  // May see the fleet (baton.v1.Fleet).
  bool is_operator = false;

  bool operator==(const ClientLimits& other) const = default;
  bool AllowsModel(const std::string& model) const;
};

struct ApiKey {
  // 1 to 64 letters, digits, dots, dashes and underscores: it goes into logs and metrics.
  std::string client;
  // 32 raw bytes.
  std::string sha256;
  ClientLimits limits;
  absl::Time expires = absl::InfiniteFuture();
};

// INVALID_ARGUMENT with the number of the line. Never empty: a file without keys is taken for one that is being
// written.
absl::StatusOr<std::vector<ApiKey>> ParseApiKeys(absl::string_view text);

// A new key, and the line that lets it in: `limits` as in the file.
struct NewApiKey {
  std::string key;
  std::string line;
};
absl::StatusOr<NewApiKey> MakeApiKey(absl::string_view client, const std::vector<std::string>& limits);

}  // namespace baton
