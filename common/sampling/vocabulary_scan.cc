#include "common/sampling/vocabulary_scan.h"

#include <algorithm>
#include <cmath>

#define BATON_ISA_BODY "common/sampling/vocabulary_scan.inc"
#include "common/compute/each_isa.inc"

namespace baton {

float CleanLogit(float logit) {
  // The comparison is false for NaN.
  return logit >= kExcludedLogit ? std::min(logit, std::numeric_limits<float>::max()) : kExcludedLogit;
}

void CleanLogits(absl::Span<const float> from, absl::Span<float> to) {
  BATON_PICK_ISA(CleanAll)(from.data(), static_cast<int64_t>(from.size()), to.data());
}

LargestLogit FindLargest(absl::Span<const float> logits) {
  return BATON_PICK_ISA(LargestIn)(logits.data(), static_cast<int64_t>(logits.size()));
}

double SumExp(absl::Span<const float> logits, float maximum, float scale) {
  return BATON_PICK_ISA(SumExpOf)(logits.data(), static_cast<int64_t>(logits.size()), maximum, scale);
}

SoftmaxSum LargestAndSumExp(absl::Span<const float> logits) {
  return BATON_PICK_ISA(LargestAndSum)(logits.data(), static_cast<int64_t>(logits.size()));
}

size_t NextBetween(absl::Span<const float> logits, size_t begin, float low, float high) {
  return static_cast<size_t>(BATON_PICK_ISA(NextIn)(logits.data(), static_cast<int64_t>(begin),
                                                    static_cast<int64_t>(logits.size()), low, high));
}

LargestLogit FindLargestReference(absl::Span<const float> logits) {
  LargestLogit largest;
  for (size_t id = 0; id < logits.size(); ++id) {
    const float logit = CleanLogit(logits[id]);
    if (logit > largest.logit) largest = {logit, static_cast<int32_t>(id)};
  }
  return largest;
}

double SumExpReference(absl::Span<const float> logits, float maximum, float scale) {
  double sum = 0;
  for (const float logit : logits) sum += std::exp((static_cast<double>(CleanLogit(logit)) - maximum) * scale);
  return sum;
}

}  // namespace baton
