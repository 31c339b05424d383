#include "common/state/prefix_chain.h"

#include <xxhash.h>

#include <bit>
#include <cstddef>
#include <string>

namespace baton {
namespace {

constexpr absl::string_view kName("baton prefix 1\0", 15);

PrefixHash HashOf(const std::string& bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return {hash.low64, hash.high64};
}

static_assert(std::endian::native == std::endian::little, "integers are hashed as they lie in memory");

template <typename T>
void Put(T value, std::string* out) {
  out->append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void PutText(absl::string_view text, std::string* out) {
  Put(static_cast<uint32_t>(text.size()), out);
  out->append(text.data(), text.size());
}

}  // namespace

std::vector<PrefixHash> PrefixChain(absl::string_view fingerprint, absl::string_view adapter, absl::string_view salt,
                                    absl::Span<const int32_t> tokens) {
  std::string bytes;
  bytes.append(kName.data(), kName.size());
  bytes.append(fingerprint.data(), fingerprint.size());
  PutText(adapter, &bytes);
  PutText(salt, &bytes);
  PrefixHash hash = HashOf(bytes);
  std::vector<PrefixHash> chain;
  chain.reserve(tokens.size() / kPrefixBlockTokens);
  for (; tokens.size() >= kPrefixBlockTokens; tokens.remove_prefix(kPrefixBlockTokens)) {
    bytes.clear();
    Put(hash.low, &bytes);
    Put(hash.high, &bytes);
    for (const int32_t token : tokens.first(kPrefixBlockTokens)) Put(token, &bytes);
    hash = HashOf(bytes);
    chain.push_back(hash);
  }
  return chain;
}

}  // namespace baton
