// Apart from the rest of worker_service.h: gateways need it, and nothing of models.
#include <xxhash.h>

#include "absl/strings/str_format.h"
#include "common/rpc/worker_service.h"

namespace baton {

std::string TokenizerHash(absl::string_view tokenizer) {
  const XXH128_hash_t hash = XXH3_128bits(tokenizer.data(), tokenizer.size());
  return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
}

}  // namespace baton
