// What one thread of this machine can do at most, in the same run as the kernels: compare FLOP/s and bytes/s with
// these.
#include <vector>

#include "bench/kernels/kernel_bench.h"
#include "bench/peak_kernels.h"

namespace baton {
namespace {

void RunPeak(benchmark::State& state, const PeakKernel& kernel) {
  constexpr int64_t kIterations = 1 << 20;
  for (auto _ : state) benchmark::DoNotOptimize(kernel.run(kIterations));
  state.SetLabel(kernel.name);
  SetRate(state, "FLOP/s", kernel.flops_per_iteration * static_cast<double>(kIterations));
}

void BM_MachinePeakBf16(benchmark::State& state) { RunPeak(state, BestBf16Kernel()); }
void BM_MachinePeakFloat(benchmark::State& state) { RunPeak(state, BestFloatKernel()); }
BENCHMARK(BM_MachinePeakBf16);
BENCHMARK(BM_MachinePeakFloat);

void BM_MachineRead(benchmark::State& state) {
  const std::vector<std::byte> bytes(size_t{256} << 20, std::byte{1});
  for (auto _ : state) benchmark::DoNotOptimize(StreamRead(bytes));
  SetRate(state, "bytes/s", static_cast<double>(bytes.size()));
}
BENCHMARK(BM_MachineRead);

}  // namespace
}  // namespace baton
