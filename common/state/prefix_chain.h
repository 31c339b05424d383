// Names for the beginnings of prompts: a chain of hashes, one for each whole block of tokens, each of the hash before
// it and the block. Equal hashes mean equal beginnings, so workers can say, and gateways can ask, what is cached
// without sending tokens.
//
//   root    = XXH3-128("baton prefix 1" NUL, fingerprint, u32 length and bytes of the adapter, the same of the salt)
//   hash[i] = XXH3-128(hash[i-1] (root for i = 0) as low u64, high u64; 64 token ids as i32)     (little-endian)
//
// The fingerprint keeps models apart, the adapter what is loaded on top of one, and the salt callers who must not find
// each other's prompts. XXH3 is no cryptographic hash: whoever shares memory by these names compares tokens and salts
// too.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace baton {

// Tokens of a block: those of a KV page.
inline constexpr int64_t kPrefixBlockTokens = 64;

struct PrefixHash {
  uint64_t low = 0;
  uint64_t high = 0;

  // What summaries carry.
  uint64_t Short() const { return low; }
  friend bool operator==(const PrefixHash& a, const PrefixHash& b) { return a.low == b.low && a.high == b.high; }
  template <typename H>
  friend H AbslHashValue(H state, const PrefixHash& hash) {
    return H::combine(std::move(state), hash.low, hash.high);
  }
};

// Of the whole blocks of `tokens`. `fingerprint`: its bytes.
std::vector<PrefixHash> PrefixChain(absl::string_view fingerprint, absl::string_view adapter, absl::string_view salt,
                                    absl::Span<const int32_t> tokens);

}  // namespace baton
