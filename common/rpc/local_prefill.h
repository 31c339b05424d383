// How a decode worker shares its steps between running sequences and short prompts that it computes itself, and when
// that is sooner than a prefill worker (docs/scheduling.md).
//
// A step of r rows (tokens) takes about as long as reading the weights and r times as long as one row: a + b r. With
// a = kWeightPassRows b, times can be told in rows without knowing the machine. Measured for Gemma 2 2B in bf16 on two
// cores (bench/RESULTS.md): a = 137 ms, b = 14 ms.
//
//   const int64_t tokens = PromptTokensInStep(/*running=*/8, /*chunk=*/32);              // 5
//   if (LocalRows(running, waiting, tokens, chunk) <= rows_elsewhere) ...
#pragma once

#include <algorithm>
#include <cstdint>

namespace baton {

inline constexpr int64_t kWeightPassRows = 10;
// Prompts make a step of running sequences longer by at most this, in percent.
inline constexpr int64_t kMaxStepGrowthPercent = 30;

// Prompt tokens in a step beside `running` sequences: at most `chunk`, which is for steps without any.
inline int64_t PromptTokensInStep(int64_t running, int64_t chunk) {
  if (running == 0) return chunk;
  return std::clamp<int64_t>((kWeightPassRows + running) * kMaxStepGrowthPercent / 100, 1, chunk);
}

// Rows until the first token of a prompt with `tokens` to compute, behind `waiting` other prompt tokens: half of the
// step that is under way, and as many as it takes. Arguments may come from a peer: very large ones count as 2^30.
inline int64_t LocalRows(int64_t running, int64_t waiting, int64_t tokens, int64_t chunk) {
  constexpr int64_t kMost = int64_t{1} << 30;
  running = std::clamp<int64_t>(running, 0, kMost);
  waiting = std::clamp<int64_t>(waiting, 0, kMost);
  tokens = std::clamp<int64_t>(tokens, 0, kMost);
  const int64_t in_step = PromptTokensInStep(running, chunk);
  const int64_t steps = (waiting + tokens + in_step - 1) / in_step;
  const bool idle = running == 0 && waiting == 0;
  const int64_t step_rows = kWeightPassRows + running;
  return (idle ? 0 : step_rows / 2) + steps * step_rows + waiting + tokens;
}

}  // namespace baton
