// The k largest logits in one pass, without sorting the vocabulary.
#pragma once

#include <algorithm>
#include <cstdint>
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

// The first k > 0 of `logits` (no NaN; kExcludedLogit never) in order, fewer when there are fewer. Replaces `best`.
inline void TopK(absl::Span<const float> logits, size_t k, std::vector<ScoredToken>& best) {
  best.clear();
  // A later logit equal to the threshold loses to k earlier ones, so only larger ones matter. The buffer is cut to k
  // whenever it has doubled: constant work per logit.
  float threshold = kExcludedLogit;
  const size_t limit = 2 * k + 64;
  const auto cut = [&] {
    std::nth_element(best.begin(), best.begin() + (k - 1), best.end(), IsBefore);
    best.resize(k);
    threshold = best[k - 1].logit;
  };
  for (size_t id = 0; id < logits.size(); ++id) {
    if (!(logits[id] > threshold)) continue;
    best.push_back({logits[id], static_cast<int32_t>(id)});
    if (best.size() == limit) cut();
  }
  if (best.size() > k) cut();
  std::sort(best.begin(), best.end(), IsBefore);
}

}  // namespace baton
