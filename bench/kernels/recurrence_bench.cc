// RecurrentGemma 2B's convolution and RG-LRU (2560 channels), on one thread: tokens a second of one layer.
#include <vector>

#include "bench/kernels/kernel_bench.h"
#include "common/compute/recurrence.h"

namespace baton {
namespace {

constexpr int64_t kChannels = 2560;
constexpr int kWidth = 4;

void CountTokens(benchmark::State& state, int64_t tokens) { SetRate(state, "tokens/s", static_cast<double>(tokens)); }

struct Conv {
  explicit Conv(int64_t tokens)
      : taps(RandomValues(kWidth * kChannels, 1)),
        bias(RandomValues(kChannels, 1)),
        input(RandomValues(tokens * kChannels, 1)),
        output(tokens * kChannels),
        rounded(tokens * kChannels),
        history((kWidth - 1) * kChannels) {
    run = {.tokens = tokens,
           .channels = kChannels,
           .width = kWidth,
           .taps = taps.data(),
           .bias = bias.data(),
           .history = history.data(),
           .rounding = Rounding::kBf16,
           .input = input.data(),
           .output = output.data(),
           .rounded = rounded.data()};
  }
  std::vector<float> taps, bias, input, output, rounded;
  std::vector<uint16_t> history;
  ConvRun run;
};

void BM_CausalConv(benchmark::State& state) {
  Conv conv(state.range(0));
  for (auto _ : state) CausalConv(conv.run, 0, kChannels);
  CountTokens(state, state.range(0));
}
BENCHMARK(BM_CausalConv)->Arg(1)->Arg(512);

void BM_CausalConvReference(benchmark::State& state) {
  Conv conv(state.range(0));
  for (auto _ : state) CausalConvReference(conv.run);
  CountTokens(state, state.range(0));
}
BENCHMARK(BM_CausalConvReference)->Arg(1);

struct Lru {
  explicit Lru(int64_t tokens)
      : decay(RandomValues(kChannels, 1)),
        recurrence_gate(RandomValues(tokens * kChannels, 2)),
        input_gate(RandomValues(tokens * kChannels, 2)),
        x(RandomValues(tokens * kChannels, 1)),
        branch(RandomValues(tokens * kChannels, 2)),
        state(kChannels),
        output(tokens * kChannels) {
    for (float& value : decay) value = -value * value - 1e-3f;
    run = {.tokens = tokens,
           .channels = kChannels,
           .first_position = 1,
           .decay = decay.data(),
           .recurrence_gate = recurrence_gate.data(),
           .input_gate = input_gate.data(),
           .x = x.data(),
           .branch = branch.data(),
           .state = state.data(),
           .output = output.data(),
           .rounding = Rounding::kBf16};
  }
  std::vector<float> decay, recurrence_gate, input_gate, x, branch, state, output;
  RgLruRun run;
};

void BM_RgLru(benchmark::State& state) {
  Lru lru(state.range(0));
  for (auto _ : state) RgLru(lru.run, 0, kChannels);
  CountTokens(state, state.range(0));
}
BENCHMARK(BM_RgLru)->Arg(1)->Arg(512);

void BM_RgLruReference(benchmark::State& state) {
  Lru lru(state.range(0));
  for (auto _ : state) RgLruReference(lru.run);
  CountTokens(state, state.range(0));
}
BENCHMARK(BM_RgLruReference)->Arg(1);

}  // namespace
}  // namespace baton
