// RecurrentGemma's recurrent mixer:
//
//   branch = gelu(linear_y(x));  u = conv(linear_x(x));  h = RG-LRU(u);  y = linear_out(h * branch)
#include <algorithm>

#include "common/compute/matmul.h"
#include "common/compute/recurrence.h"
#include "common/model/forward.h"

namespace baton {
namespace {

// Channels of one thread's share of a run: fixed, whatever the threads.
constexpr int64_t kChannels = 256;
// What the RG-LRU does per channel and token, in multiply-adds.
constexpr int64_t kChannelWork = 64;

}  // namespace

void ForwardPass::RecurrentBlock(int layer, const RecurrentWeights& weights, const float* x, float* y) {
  const int64_t width = config_.lru_width;
  float* input = lru_input_.Resize(rows_, width);
  float* branch = lru_branch_.Resize(rows_, width);
  Apply(weights.linear_x, x, input);
  Apply(weights.linear_y, x, branch);
  // Channels are independent: (run, channel range) pairs run in parallel, tokens in order.
  const int64_t run_count = static_cast<int64_t>(runs_.size());
  const int64_t ranges = (width + kChannels - 1) / kChannels;
  const auto for_each_channel_range = [&](auto&& fn) {
    const int64_t mean_tokens = (rows_ + run_count - 1) / run_count;
    pool_.ParallelFor(run_count * ranges, Grain(mean_tokens * kChannels * kChannelWork),
                      [&](int64_t begin, int64_t end) {
                        for (int64_t i = begin; i < end; ++i) {
                          const int64_t channel = i % ranges * kChannels;
                          fn(i / ranges, channel, std::min(width, channel + kChannels));
                        }
                      });
  };
  const float* u = lru_x_.Resize(rows_, width);
  const float* gate_input = u;
  if (rounding_ == Rounding::kBf16) gate_input = lru_rounded_.Resize(rows_, width);
  for_each_channel_range(
      [&](int64_t run, int64_t begin, int64_t end) { ConvolveRun(layer, weights, run, begin, end); });

  ComputeGates(weights, gate_input);
  const float* recurrence_gate = recurrence_gate_.Resize(rows_, width);
  const float* input_gate = input_gate_.Resize(rows_, width);
  float* out = lru_out_.Resize(rows_, width);
  for_each_channel_range([&](int64_t run, int64_t begin, int64_t end) {
    const int64_t at = first_rows_[run] * width;
    RgLru({.tokens = static_cast<int64_t>(runs_[run].tokens.size()),
           .channels = width,
           .first_position = runs_[run].state->position(),
           .decay = weights.decay.data(),
           .recurrence_gate = recurrence_gate + at,
           .input_gate = input_gate + at,
           .x = u + at,
           .branch = branch + at,
           .state = runs_[run].state->RgLruState(layer).data(),
           .output = out + at,
           .rounding = rounding_},
          begin, end);
  });
  Apply(weights.linear_out, out, y);
}

// Both gates before their sigmoids. Block b reads and writes channels [b * block, (b + 1) * block).
void ForwardPass::ComputeGates(const RecurrentWeights& weights, const float* gate_input) {
  const int64_t width = config_.lru_width;
  float* recurrence_gate = recurrence_gate_.Resize(rows_, width);
  float* input_gate = input_gate_.Resize(rows_, width);
  const int64_t blocks = config_.gate_blocks;
  const int64_t block = width / blocks;
  pool_.ParallelFor(2 * blocks, Grain(rows_ * block * block), [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const bool recurrence = i < blocks;
      const LinearLayer& gate = recurrence ? weights.recurrence_gates[i] : weights.input_gates[i - blocks];
      const int64_t channel = i % blocks * block;
      MatMulOnThisThread(gate.matrix, gate.bias_or_null(), {gate_input + channel, width, rows_},
                         (recurrence ? recurrence_gate : input_gate) + channel, width);
    }
  });
}

void ForwardPass::ConvolveRun(int layer, const RecurrentWeights& weights, int64_t run, int64_t begin, int64_t end) {
  const int64_t width = config_.lru_width;
  const int64_t at = first_rows_[run] * width;
  CausalConv({.tokens = static_cast<int64_t>(runs_[run].tokens.size()),
              .channels = width,
              .width = config_.conv_width,
              .taps = weights.conv_taps.data(),
              .bias = weights.conv_bias.data(),
              .history = runs_[run].state->ConvState(layer).data(),
              .rounding = rounding_,
              .input = lru_input_.Resize(rows_, width) + at,
              .output = lru_x_.Resize(rows_, width) + at,
              .rounded = rounding_ == Rounding::kBf16 ? lru_rounded_.Resize(rows_, width) + at : nullptr},
             begin, end);
}

}  // namespace baton
