// ComputeLogprob: what the model thought, before sampling parameters.
#include <algorithm>
#include <cmath>
#include <vector>

#include "common/sampling/sampler.h"
#include "common/sampling/top_k.h"
#include "common/sampling/vocabulary_scan.h"

namespace baton {

TokenLogprob ComputeLogprob(absl::Span<const float> logits, int32_t token, int top) {
  TokenLogprob result;
  result.logprob = kExcludedLogit;
  const SoftmaxSum softmax = LargestAndSumExp(logits);
  if (softmax.largest.id < 0) return result;
  const double log_sum = std::log(softmax.sum);
  const auto logprob = [&](float logit) {
    // At most 0: the sum's rounding must not make a probability exceed 1.
    return static_cast<float>(std::min(0.0, static_cast<double>(logit) - softmax.largest.logit - log_sum));
  };
  if (token >= 0 && static_cast<size_t>(token) < logits.size()) {
    result.logprob = logprob(CleanLogit(logits[token]));
    result.is_greedy = token == softmax.largest.id;
  }
  if (top <= 0) return result;
  std::vector<ScoredToken> best;
  TopK(logits, top, best);
  result.top.reserve(best.size());
  for (const ScoredToken& entry : best) result.top.emplace_back(entry.id, logprob(entry.logit));
  return result;
}

}  // namespace baton
