// What happens between the matrix products, a row at a time: Gemma 2 2B's widths (hidden 2304, MLP 9216).
#include <vector>

#include "bench/kernels/kernel_bench.h"
#include "common/compute/rowwise.h"

namespace baton {
namespace {

void CountElements(benchmark::State& state, int64_t elements) {
  SetRate(state, "elements/s", static_cast<double>(elements));
}

void BM_AddRmsNorm(benchmark::State& state) {
  const int64_t n = state.range(0);
  const std::vector<float> update = RandomValues(n, 1), scale = RandomValues(n, 1);
  std::vector<float> residual = RandomValues(n, 3), normed(n);
  for (auto _ : state) {
    AddRmsNorm({update.data(), scale.data(), residual.data(), scale.data(), normed.data()}, 1e-6f, n, Rounding::kBf16);
  }
  CountElements(state, n);
}
BENCHMARK(BM_AddRmsNorm)->Arg(2304);

void BM_RmsNormReference(benchmark::State& state) {
  const int64_t n = state.range(0);
  const std::vector<float> x = RandomValues(n, 1), scale = RandomValues(n, 1);
  std::vector<float> y(n);
  for (auto _ : state) RmsNormReference(x.data(), scale.data(), 1e-6f, n, y.data());
  CountElements(state, n);
}
BENCHMARK(BM_RmsNormReference)->Arg(2304);

void BM_GeluGate(benchmark::State& state) {
  const int64_t n = state.range(0);
  const std::vector<float> gate = RandomValues(n, 3), up = RandomValues(n, 1);
  std::vector<float> y(n);
  for (auto _ : state) GeluGate(gate.data(), up.data(), n, Rounding::kBf16, y.data());
  CountElements(state, n);
}
BENCHMARK(BM_GeluGate)->Arg(9216);

void BM_GeluGateReference(benchmark::State& state) {
  const int64_t n = state.range(0);
  const std::vector<float> gate = RandomValues(n, 3), up = RandomValues(n, 1);
  std::vector<float> y(n);
  for (auto _ : state) {
    for (int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(GeluReference(gate[i]) * up[i]);
    benchmark::DoNotOptimize(y.data());
  }
  CountElements(state, n);
}
BENCHMARK(BM_GeluGateReference)->Arg(9216);

void BM_StoreAsBf16(benchmark::State& state) {
  const int64_t n = state.range(0);
  const std::vector<float> x = RandomValues(n, 1);
  std::vector<uint16_t> y(n);
  for (auto _ : state) StoreAsBf16(x.data(), n, y.data());
  CountElements(state, n);
}
BENCHMARK(BM_StoreAsBf16)->Arg(1024);

}  // namespace
}  // namespace baton
