#include "tests/golden/bounds.h"

namespace baton {
namespace {

// float32 runs of the references themselves differ from their float64 runs by up to 1.3e-4 (prompts), 2.4e-4 (steps)
// and 3.4e-4 (1000 tokens); suggested tolerances are about four times that. Two float32 implementations differ by up to
// 1.1e-4 on prompts: what SGEMM may do for another shape stays within it.
constexpr Bounds kF32 = {
    .prompt_logits = {.max_abs = 5e-4},
    .every_position_logits = {.max_abs = 5e-4},
    .step_logits = {.max_abs = 1e-3},
    .long_logits = {.max_abs = 2e-3},
    .hidden = {.max_abs = 2e-4},
    .state = {.max_abs = 1e-4},
    .margin = 2e-3,
    .invariance = 1.1e-4,
    .long_invariance = 3.4e-4,
    .reason = "tolerances of the golden files for float32; chunked and batched within the noise floor of float32",
};

// The references run wholly in bf16 differ from float64 by rms 0.17 / 0.20 / 0.67 and max 0.57 / 0.69 / 2.4 in
// last-position logits at 150 tokens (Gemma, Gemma 2, RecurrentGemma). Baton keeps the residual stream, softmax, gates
// and RG-LRU state in float32, so the middle one binds all three families. Maxima over many positions, and logits after
// 1000 tokens, may go twice as far. Two logits that are each off by the rms bound can close a gap of 0.4: from there on
// the greedy token must be the same. Hidden values and state carry the rounding of a few dozen products, each 2^-9 of
// its size: 4 % in all.
constexpr Bounds kBf16 = {
    .prompt_logits = {.max_abs = 0.69, .rms = 0.20},
    .every_position_logits = {.max_abs = 1.38, .rms = 0.20},
    .step_logits = {.max_abs = 1.38, .rms = 0.20},
    .long_logits = {.max_abs = 1.38, .rms = 0.40},
    .hidden = {.relative_rms = 0.04},
    .state = {.relative_rms = 0.04},
    .margin = 0.4,
    .invariance = 0,
    .long_invariance = 0,
    .reason = "what bf16 activations cost the reference of Gemma 2 at 150 tokens; chunked and batched: same bits",
};

// Quantised weights: about a third above what was measured. Random weights are the harshest case (the trained models
// lose next to nothing, see quantisation_error_test.cc): int4 leaves little of their logits, so that what it is held to
// is that the same request gives the same bits.
constexpr Bounds kInt8 = {
    .prompt_logits = {.max_abs = 2.4, .rms = 0.6},
    .every_position_logits = {.max_abs = 2.6, .rms = 0.4},
    .step_logits = {.max_abs = 3.4, .rms = 0.35},
    .long_logits = {.max_abs = 1.4, .rms = 0.4},
    .hidden = {.relative_rms = 0.07},
    .state = {.relative_rms = 0.05},
    .margin = 1.5,
    .invariance = 0,
    .long_invariance = 0,
    .reason = "a third above what int8 weights were measured to cost; chunked and batched: same bits",
};

constexpr Bounds kInt8A8 = {
    .prompt_logits = {.max_abs = 2.6, .rms = 0.8},
    .every_position_logits = {.max_abs = 3.8, .rms = 0.55},
    .step_logits = {.max_abs = 4.4, .rms = 0.55},
    .long_logits = {.max_abs = 2.5, .rms = 0.8},
    .hidden = {.relative_rms = 0.1},
    .state = {.relative_rms = 0.12},
    .margin = 1.5,
    .invariance = 0,
    .long_invariance = 0,
    .reason = "a third above what int8 weights and activations were measured to cost; chunked and batched: same bits",
};

constexpr Bounds kInt4 = {
    .prompt_logits = {.rms = 3.9},
    .every_position_logits = {.rms = 3},
    .step_logits = {.rms = 3.2},
    .long_logits = {.rms = 3.2},
    .hidden = {.relative_rms = 0.85},
    .state = {.relative_rms = 0.65},
    .margin = Bound::kNone,
    .invariance = 0,
    .long_invariance = 0,
    .reason = "a third above what int4 was measured to cost random weights; chunked and batched: same bits",
};

}  // namespace

const Bounds& BoundsFor(WeightPrecision weights) {
  switch (weights) {
    case WeightPrecision::kF32:
      return kF32;
    case WeightPrecision::kBf16:
      return kBf16;
    case WeightPrecision::kInt8:
      return kInt8;
    case WeightPrecision::kInt8A8:
      return kInt8A8;
    case WeightPrecision::kInt4:
      return kInt4;
  }
  return kBf16;
}

}  // namespace baton
