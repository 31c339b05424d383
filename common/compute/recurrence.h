// The two recurrent steps of RecurrentGemma's mixer, over a run of one sequence's tokens: the causal depthwise
// convolution and the RG-LRU (Griffin, arXiv 2402.19427). Channels are independent: callers split [begin, end) over
// threads; tokens are walked in order, so any cut of a sequence into runs gives the same bits.
#pragma once

#include <cstdint>

#include "common/compute/rowwise.h"

namespace baton {

// out[t, c] = bias[c] + sum_s taps[width - 1 - s, c] * input[t - s, c], s = 0 .. width - 1.
struct ConvRun {
  int64_t tokens = 0;
  int64_t channels = 0;  // stride of all rows
  int width = 0;
  const float* taps = nullptr;     // [width, channels]; the last tap meets the current token
  const float* bias = nullptr;     // [channels]
  const float* history = nullptr;  // [width - 1, channels]: the inputs before the run, oldest first
  const float* input = nullptr;    // [tokens, channels]
  float* output = nullptr;         // [tokens, channels]
};
void CausalConv(const ConvRun& run, int64_t begin, int64_t end);

// r = sigmoid(recurrence_gate), i = sigmoid(input_gate), log a = decay * r,
// h = a h + sqrt(1 - a^2) i x; at position 0: h = i x. output = h * branch.
// 1 - a^2 is computed as -expm1(2 log a): a may be within 1e-5 of 1.
struct RgLruRun {
  int64_t tokens = 0;
  int64_t channels = 0;                    // stride of all rows
  int64_t first_position = 0;              // of the run's first token
  const float* decay = nullptr;            // [channels]: -8 softplus(recurrent_param)
  const float* recurrence_gate = nullptr;  // [tokens, channels], before the sigmoid
  const float* input_gate = nullptr;       // [tokens, channels], before the sigmoid
  const float* x = nullptr;                // [tokens, channels]
  const float* branch = nullptr;           // [tokens, channels]: gelu(linear_y)
  float* state = nullptr;                  // [channels], in and out
  float* output = nullptr;                 // [tokens, channels]
  Rounding rounding = Rounding::kNone;     // of output
};
void RgLru(const RgLruRun& run, int64_t begin, int64_t end);

// Plain loops in double precision; RgLruReference carries the state in double through the run.
void CausalConvReference(const ConvRun& run);
void RgLruReference(const RgLruRun& run);

}  // namespace baton
