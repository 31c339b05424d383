// Passes over the logits of a whole vocabulary (256000 of them for Gemma), each once through memory and sixteen logits
// at a time. Their results depend on the numbers alone: additions are grouped by position, and rounded as the
// instruction set rounds.
//
// All take logits as a model gives them: NaN counts as kExcludedLogit, +infinity as the largest float.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "absl/types/span.h"

namespace baton {

// A logit that can't be drawn.
inline constexpr float kExcludedLogit = -std::numeric_limits<float>::infinity();

// NaN -> kExcludedLogit, +inf -> the largest float, others unchanged.
float CleanLogit(float logit);
// `to` has the size of `from`.
void CleanLogits(absl::Span<const float> from, absl::Span<float> to);

struct LargestLogit {
  float logit = kExcludedLogit;
  int32_t id = -1;  // the lowest of equals; -1 where all are excluded
};
LargestLogit FindLargest(absl::Span<const float> logits);

// Sum of exp((logit - maximum) * scale) in single precision terms and double sums; terms below e^-87 count as 0. No
// logit exceeds the maximum, which is finite.
double SumExp(absl::Span<const float> logits, float maximum, float scale);

// The largest logit, and the sum of exp(logit - largest) as above, in one pass.
struct SoftmaxSum {
  LargestLogit largest;
  double sum = 0;  // at least 1, or 0 where all are excluded
};
SoftmaxSum LargestAndSumExp(absl::Span<const float> logits);

// The first id >= begin with low <= logit <= high; logits.size() where there is none.
size_t NextBetween(absl::Span<const float> logits, size_t begin, float low, float high);

// FindLargest and SumExp as plain loops, the sum in double precision: for tests.
LargestLogit FindLargestReference(absl::Span<const float> logits);
double SumExpReference(absl::Span<const float> logits, float maximum, float scale);

}  // namespace baton
