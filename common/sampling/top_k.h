// The k largest logits in one pass, without sorting the vocabulary.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "absl/types/span.h"
#include "common/sampling/vocabulary_scan.h"

namespace baton {

struct ScoredToken {
  float logit;
  int32_t id;
};

// The order of everything in sampling: larger logit first, then lower id.
inline bool IsBefore(const ScoredToken& a, const ScoredToken& b) {
  return a.logit != b.logit ? a.logit > b.logit : a.id < b.id;
}

// The first k > 0 of `logits` that are not excluded, in order; fewer when there are fewer. Replaces `best`.
inline void TopK(absl::Span<const float> logits, size_t k, std::vector<ScoredToken>& best) {
  best.clear();
  // A later logit equal to the threshold loses to k earlier ones, so only larger ones matter. The buffer is cut to k
  // whenever it has doubled: constant work per logit that exceeds the threshold, next to none for the others.
  constexpr float kAll = std::numeric_limits<float>::infinity();
  float low = std::numeric_limits<float>::lowest();
  const size_t limit = 2 * k + 64;
  const auto cut = [&] {
    std::nth_element(best.begin(), best.begin() + (k - 1), best.end(), IsBefore);
    best.resize(k);
    low = std::nextafter(best[k - 1].logit, kAll);
  };
  for (size_t id = NextBetween(logits, 0, low, kAll); id < logits.size(); id = NextBetween(logits, id + 1, low, kAll)) {
    best.push_back({CleanLogit(logits[id]), static_cast<int32_t>(id)});
    if (best.size() == limit) cut();
  }
  if (best.size() > k) cut();
  std::sort(best.begin(), best.end(), IsBefore);
}

}  // namespace baton
