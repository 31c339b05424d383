// The two recurrent steps of RecurrentGemma's mixer, over a run of one sequence's tokens: the causal depthwise
// convolution and the RG-LRU (Griffin, arXiv 2402.19427). Channels are independent: callers split [begin, end) over
// threads; tokens are walked in order, so any cut of a sequence into runs gives the same bits.
#pragma once

#include <cstdint>

#include "common/compute/rowwise.h"

namespace baton {

// output[t, c] = bias[c] + sum_s taps[width - 1 - s, c] * x[t - s, c], s = 0 .. width - 1, where x is the input rounded
// to what the history holds: a token must look the same whether it is read from this run or from the state.
struct ConvRun {
  int64_t tokens = 0;
  int64_t channels = 0;  // stride of all rows
  int width = 0;
  const float* taps = nullptr;  // [width, channels]; the last tap meets the current token
  const float* bias = nullptr;  // [channels]
  // [width - 1, channels]: the inputs before the run, oldest first; afterwards the last ones of the run. bfloat16 where
  // rounding is kBf16, else float32.
  void* history = nullptr;
  Rounding rounding = Rounding::kNone;  // of the input and of `rounded`
  const float* input = nullptr;         // [tokens, channels]
  float* output = nullptr;              // [tokens, channels]
  float* rounded = nullptr;             // [tokens, channels]: the output for matrix products; null: not wanted
};
void CausalConv(const ConvRun& run, int64_t begin, int64_t end);

// r = sigmoid(recurrence_gate), i = sigmoid(input_gate), log a = decay * r,
// h = a h + sqrt(1 - a^2) i x; at position 0: h = i x. output = h * gelu_tanh(branch).
// 1 - a^2 is computed from expm1(log a): a may be within 1e-5 of 1.
struct RgLruRun {
  int64_t tokens = 0;
  int64_t channels = 0;                    // stride of all rows
  int64_t first_position = 0;              // of the run's first token
  const float* decay = nullptr;            // [channels]: -8 softplus(recurrent_param)
  const float* recurrence_gate = nullptr;  // [tokens, channels], before the sigmoid
  const float* input_gate = nullptr;       // [tokens, channels], before the sigmoid
  const float* x = nullptr;                // [tokens, channels]
  const float* branch = nullptr;           // [tokens, channels]: linear_y, before the gelu
  float* state = nullptr;                  // [channels], in and out
  float* output = nullptr;                 // [tokens, channels]
  Rounding rounding = Rounding::kNone;     // of output
};
void RgLru(const RgLruRun& run, int64_t begin, int64_t end);

// Plain loops in double precision; RgLruReference carries the state in double through the run.
void CausalConvReference(const ConvRun& run);
void RgLruReference(const RgLruRun& run);

}  // namespace baton
