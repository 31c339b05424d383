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

}  // namespace

const Bounds& BoundsFor(ComputeMode compute) { return compute == ComputeMode::kF32 ? kF32 : kBf16; }

}  // namespace baton
