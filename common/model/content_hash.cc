#include <algorithm>
#include <memory>

#include <xxhash.h>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/model/checkpoint.h"
#include "common/model/json_object.h"

namespace baton {
namespace {

constexpr int64_t kWholeBytes = 64 << 10;
constexpr int64_t kBlockBytes = 4 << 10;
// Blocks read of each larger tensor, the first and the last included.
constexpr int64_t kBlocks = 16;

class Hasher {
 public:
  Hasher() : state_(XXH3_createState()) {
    BATON_CHECK(state_ != nullptr);
    XXH3_128bits_reset(state_.get());
  }
  void Add(const void* data, size_t bytes) { XXH3_128bits_update(state_.get(), data, bytes); }
  // With its length, so that neighbouring texts can't run together.
  void AddText(absl::string_view text) {
    const uint64_t length = text.size();
    Add(&length, sizeof(length));
    Add(text.data(), text.size());
  }
  std::string Hex() const {
    const XXH128_hash_t hash = XXH3_128bits_digest(state_.get());
    return absl::StrFormat("%016x%016x", hash.high64, hash.low64);
  }

 private:
  struct Free {
    void operator()(XXH3_state_t* state) const { XXH3_freeState(state); }
  };
  std::unique_ptr<XXH3_state_t, Free> state_;
};

void AddContents(const TensorView& tensor, Hasher& hasher) {
  if (tensor.bytes <= kWholeBytes) {
    hasher.Add(tensor.data, tensor.bytes);
    return;
  }
  const int64_t last = tensor.bytes - kBlockBytes;
  for (int64_t i = 0; i + 1 < kBlocks; ++i) hasher.Add(tensor.data + last / (kBlocks - 1) * i, kBlockBytes);
  hasher.Add(tensor.data + last, kBlockBytes);
}

}  // namespace

std::string Checkpoint::ContentHash() const {
  if (!content_hash_.empty()) return content_hash_;
  Hasher hasher;
  // Parsed and written again: keys sorted, spacing gone. It parsed when the checkpoint was opened.
  const auto config = ParseJsonObject(config_text_, directory_);
  BATON_CHECK(config.ok());
  hasher.AddText(config->dump());
  // The one option that changes what the model computes.
  hasher.AddText(absl::StrCat("visible_keys ", config_.visible_keys));
  for (const TensorSpec& spec : ExpectedTensors(config_)) {
    const TensorView* tensor = FindByName(spec.name);
    hasher.AddText(tensor->name);
    hasher.AddText(TensorTypeName(tensor->type));
    hasher.AddText(ShapeText(tensor->shape));
    AddContents(*tensor, hasher);
  }
  return content_hash_ = hasher.Hex();
}

}  // namespace baton
