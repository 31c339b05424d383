#include "common/state/state_layout.h"

#include <algorithm>
#include <limits>

#include "common/base/status_macros.h"
#include "common/state/kv_page.h"

namespace baton {
namespace {

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();

// Sizes come from requests, so sums and products stop at the largest value instead of wrapping: no budget holds it.
int64_t Multiply(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? kMax : product;
}

int64_t Add(int64_t a, int64_t b) {
  int64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? kMax : sum;
}

// What `bytes` take as a page.
int64_t Aligned(int64_t bytes) {
  const int64_t padded = Add(bytes, kPageAlignment - 1);
  return padded == kMax ? kMax : padded / kPageAlignment * kPageAlignment;
}

// K and V of one position, all heads.
int64_t KvPositionBytes(const LayerStateSpec& layer, ElementType element) {
  return Multiply(Multiply(2 * ElementBytes(element), layer.kv_heads), layer.head_dim);
}

}  // namespace

int64_t StateLayout::KvPages(const LayerStateSpec& layer, int64_t max_tokens) const {
  BATON_CHECK(layer.kind != LayerStateSpec::Kind::kRecurrent);
  const int64_t tokens = std::max<int64_t>(max_tokens, 0);
  const int64_t pages = tokens / page_tokens + (tokens % page_tokens != 0 ? 1 : 0);
  if (layer.kind == LayerStateSpec::Kind::kGlobalKv) return pages;
  // The first of `kept` positions may be the last of its page.
  const int64_t kept = Add(layer.visible_keys, max_run_tokens - 1);
  return std::min(pages, Add(kept, page_tokens - 2) / page_tokens + 1);
}

int64_t StateLayout::FirstNeededPosition(const LayerStateSpec& layer, int64_t position) const {
  BATON_CHECK(layer.kind != LayerStateSpec::Kind::kRecurrent);
  if (layer.kind == LayerStateSpec::Kind::kGlobalKv) return 0;
  return std::max<int64_t>(0, position - (layer.visible_keys - 1));
}

int64_t StateLayout::PageBytes(const LayerStateSpec& layer) const {
  BATON_CHECK(layer.kind != LayerStateSpec::Kind::kRecurrent);
  return Aligned(Multiply(KvPositionBytes(layer, element), page_tokens));
}

int64_t StateLayout::RecurrentBytes(const LayerStateSpec& layer) const {
  BATON_CHECK(layer.kind == LayerStateSpec::Kind::kRecurrent);
  const int64_t rg_lru = Multiply(layer.width, sizeof(float));
  const int64_t conv = Multiply(Multiply(layer.conv_history, layer.width), ElementBytes(element));
  return Aligned(Add(rg_lru, conv));
}

int64_t StateLayout::LayerBytes(const LayerStateSpec& layer, int64_t max_tokens) const {
  if (layer.kind == LayerStateSpec::Kind::kRecurrent) return RecurrentBytes(layer);
  return Multiply(KvPages(layer, max_tokens), PageBytes(layer));
}

int64_t StateLayout::BytesFor(int64_t max_tokens) const {
  int64_t bytes = 0;
  for (const LayerStateSpec& layer : layers) bytes = Add(bytes, LayerBytes(layer, max_tokens));
  return bytes;
}

int64_t StateLayout::ForkBytes(int64_t position, int64_t max_tokens, int forks) const {
  BATON_CHECK(position >= 1 && position <= max_tokens);
  if (forks == 0) return 0;
  int64_t own = 0;     // of each fork
  int64_t shared = 0;  // once
  for (const LayerStateSpec& layer : layers) {
    if (layer.kind == LayerStateSpec::Kind::kRecurrent) {
      own = Add(own, RecurrentBytes(layer));
      continue;
    }
    const int64_t first_own = position / page_tokens;
    const int64_t pages = KvPages(layer, max_tokens);
    const int64_t own_pages = std::min(pages, (max_tokens - 1) / page_tokens + 1 - first_own);
    own = Add(own, Multiply(own_pages, PageBytes(layer)));
    // The pages that become shared do not come back, though the state may yet need as many of its own.
    const int64_t held = (position - 1) / page_tokens - FirstNeededPosition(layer, position) / page_tokens + 1;
    shared = Add(shared, Multiply(std::max<int64_t>(0, own_pages - (pages - held)), PageBytes(layer)));
  }
  return Add(shared, Multiply(own, forks));
}

}  // namespace baton
