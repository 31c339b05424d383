// Passes over the logits of a whole vocabulary (256000 of them for Gemma), written so that compilers vectorise them.
// Their results depend on the numbers alone: additions are grouped the same way on every machine.
#pragma once

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

// Largest value; kExcludedLogit when there is none. No NaN.
float MaxLogit(absl::Span<const float> logits);

// Sum of exp((logit - maximum) * scale) in single precision terms and double sums; terms below e^-87 count as 0.
// logits <= maximum, finite or kExcludedLogit.
double SumExp(absl::Span<const float> logits, float maximum, float scale);

}  // namespace baton
