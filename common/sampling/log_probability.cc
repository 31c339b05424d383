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
  if (logits.empty()) return result;
  std::vector<float> clean(logits.size());
  CleanLogits(logits, absl::MakeSpan(clean));
  const float maximum = MaxLogit(clean);
  if (maximum == kExcludedLogit) return result;
  const double log_sum = std::log(SumExp(clean, maximum, 1.0f));
  const auto logprob = [&](float logit) {
    // At most 0: SumExp's rounding must not make a probability exceed 1.
    return static_cast<float>(std::min(0.0, static_cast<double>(logit) - maximum - log_sum));
  };
  if (token >= 0 && static_cast<size_t>(token) < clean.size()) {
    result.logprob = logprob(clean[token]);
    result.is_greedy = token == std::find(clean.begin(), clean.end(), maximum) - clean.begin();
  }
  if (top <= 0) return result;
  std::vector<ScoredToken> best;
  TopK(clean, top, best);
  result.top.reserve(best.size());
  for (const ScoredToken& entry : best) result.top.emplace_back(entry.id, logprob(entry.logit));
  return result;
}

}  // namespace baton
