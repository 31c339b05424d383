#include "common/state/fingerprint.h"

#include <xxhash.h>

#include <algorithm>
#include <bit>
#include <cstring>

#include "absl/strings/escaping.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

static_assert(std::endian::native == std::endian::little, "hashed integers are little-endian");

// Two independent 128-bit hashes of the same input, told apart by their seeds.
constexpr XXH64_hash_t kSeeds[2] = {0, 0x9E3779B97F4A7C15};
// What an item is comes before it, so that the number 1 and a text of the same bytes differ.
enum class ItemTag : uint8_t { kText = 1, kNumber = 2 };

}  // namespace

struct FingerprintBuilder::State {
  XXH3_state_t* hashes[2];

  void Update(const void* data, size_t size) {
    for (XXH3_state_t* hash : hashes) BATON_CHECK(XXH3_128bits_update(hash, data, size) == XXH_OK);
  }
};

std::string Fingerprint::ToHex() const { return absl::BytesToHexString(ToBytes()); }

bool Fingerprint::FromBytes(absl::string_view raw, Fingerprint* out) {
  if (raw.size() != out->bytes.size()) return false;
  std::copy(raw.begin(), raw.end(), out->bytes.begin());
  return true;
}

FingerprintBuilder::FingerprintBuilder() : state_(new State) {
  for (int i = 0; i < 2; ++i) {
    state_->hashes[i] = XXH3_createState();
    BATON_CHECK(state_->hashes[i] != nullptr);
    BATON_CHECK(XXH3_128bits_reset_withSeed(state_->hashes[i], kSeeds[i]) == XXH_OK);
  }
}

FingerprintBuilder::~FingerprintBuilder() {
  for (XXH3_state_t* hash : state_->hashes) XXH3_freeState(hash);
  delete state_;
}

void FingerprintBuilder::Add(absl::string_view data) {
  const ItemTag tag = ItemTag::kText;
  const uint64_t size = data.size();
  state_->Update(&tag, sizeof(tag));
  state_->Update(&size, sizeof(size));
  state_->Update(data.data(), data.size());
}

void FingerprintBuilder::Add(int64_t value) {
  const ItemTag tag = ItemTag::kNumber;
  state_->Update(&tag, sizeof(tag));
  state_->Update(&value, sizeof(value));
}

Fingerprint FingerprintBuilder::Finish() const {
  Fingerprint fingerprint;
  for (int i = 0; i < 2; ++i) {
    XXH128_canonical_t canonical;
    XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(state_->hashes[i]));
    static_assert(sizeof(canonical.digest) == 16);
    std::memcpy(fingerprint.bytes.data() + 16 * i, canonical.digest, sizeof(canonical.digest));
  }
  return fingerprint;
}

}  // namespace baton
