// Products with packed weights at the shapes of Gemma 2 2B and RecurrentGemma 2B: counters say how fast weights pass by
// and how fast it computes. kF32 is OpenBLAS's SGEMM; the plain reference stands beside it. Weights rotate through more
// memory than caches hold, as they do in a model.
#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "bench/kernels/kernel_bench.h"
#include "common/compute/bf16.h"
#include "common/compute/matmul.h"

namespace baton {
namespace {

constexpr int64_t kRotation = int64_t{256} << 20;

// Copies of a packed matrix; 64 rows of random weights are packed, once, and repeated.
class RotatingWeights {
 public:
  RotatingWeights(ThreadPool& pool, WeightPrecision precision, int64_t outputs, int64_t inputs)
      : precision_(precision),
        outputs_(outputs),
        inputs_(inputs),
        bytes_(PackedBytes(precision, outputs, inputs)),
        copies_(std::max<int64_t>(1, kRotation / bytes_)),
        data_(static_cast<std::byte*>(std::aligned_alloc(4096, static_cast<size_t>((bytes_ * copies_ + 4095) & ~4095))),
              &std::free) {
    constexpr int64_t kPackedRows = 64;
    const int64_t part = PackedBytes(precision, kPackedRows, inputs);
    std::vector<std::byte> rows(part + kPackedAlignment);
    const auto address = reinterpret_cast<uintptr_t>(rows.data());
    std::byte* packed = rows.data() + (kPackedAlignment - address % kPackedAlignment) % kPackedAlignment;
    const absl::Status status = PackMatrix(
        pool, precision, kPackedRows, inputs,
        [inputs](int64_t output, absl::Span<float> row) {
          const std::vector<float> values = RandomValues(inputs, 0x1p-5f, static_cast<uint64_t>(output) + 1);
          std::copy(values.begin(), values.end(), row.begin());
        },
        packed);
    if (!status.ok()) std::abort();
    for (int64_t at = 0; at < bytes_ * copies_; at += part) {
      std::memcpy(data_.get() + at, packed, static_cast<size_t>(std::min(part, bytes_ * copies_ - at)));
    }
  }

  PackedMatrix Next() { return {data_.get() + next_++ % copies_ * bytes_, precision_, outputs_, inputs_}; }
  int64_t bytes() const { return bytes_; }

 private:
  WeightPrecision precision_;
  int64_t outputs_, inputs_, bytes_, copies_;
  std::unique_ptr<std::byte, decltype(&std::free)> data_;
  int64_t next_ = 0;
};

std::vector<float> Activations(int64_t count) {
  std::vector<float> x(count);
  for (int64_t i = 0; i < count; ++i) x[i] = RoundToBf16(static_cast<float>(i * 7919 % 1000) * 1e-3f - 0.5f);
  return x;
}

void SetCounters(benchmark::State& state, double bytes, double flops) {
  SetRate(state, "weights B/s", bytes);
  SetRate(state, "FLOP/s", flops);
}

void BM_MatMul(benchmark::State& state, WeightPrecision precision) {
  const int64_t outputs = state.range(0), inputs = state.range(1), rows = state.range(2);
  ThreadPool pool({});
  RotatingWeights weights(pool, precision, outputs, inputs);
  const std::vector<float> x = Activations(rows * inputs);
  std::vector<float> y(rows * outputs);
  for (auto _ : state) MatMul(pool, weights.Next(), nullptr, {x.data(), inputs, rows}, y.data(), outputs);
  SetCounters(state, static_cast<double>(weights.bytes()), 2.0 * static_cast<double>(rows * outputs * inputs));
}

void Shapes(benchmark::internal::Benchmark* benchmark) {
  benchmark->ArgNames({"outputs", "inputs", "rows"})->UseRealTime()->Unit(benchmark::kMillisecond);
  for (const int64_t rows : {1, 4, 8, 32, 128, 512}) {
    benchmark->Args({9216, 2304, rows})->Args({2304, 9216, rows})->Args({2048, 2304, rows})->Args({2560, 2560, rows});
  }
  for (const int64_t rows : {1, 8, 32}) benchmark->Args({256000, 2304, rows});  // the head
}
BENCHMARK_CAPTURE(BM_MatMul, bf16, WeightPrecision::kBf16)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_MatMul, int8, WeightPrecision::kInt8)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_MatMul, int4, WeightPrecision::kInt4)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_MatMul, int8a8, WeightPrecision::kInt8A8)->Apply(Shapes);
BENCHMARK_CAPTURE(BM_MatMul, f32_sgemm, WeightPrecision::kF32)->Apply(Shapes);

void BM_MatMulReference(benchmark::State& state) {
  const int64_t outputs = state.range(0), inputs = state.range(1), rows = state.range(2);
  ThreadPool pool({});
  RotatingWeights weights(pool, WeightPrecision::kBf16, outputs, inputs);
  const std::vector<float> x = Activations(rows * inputs);
  std::vector<float> y(rows * outputs);
  for (auto _ : state) MatMulReference(weights.Next(), nullptr, {x.data(), inputs, rows}, y.data(), outputs);
  SetCounters(state, static_cast<double>(weights.bytes()), 2.0 * static_cast<double>(rows * outputs * inputs));
}
BENCHMARK(BM_MatMulReference)
    ->ArgNames({"outputs", "inputs", "rows"})
    ->Args({2560, 2560, 1})
    ->Args({2560, 2560, 8})
    ->Unit(benchmark::kMillisecond);

void BM_PackMatrix(benchmark::State& state, WeightPrecision precision) {
  const int64_t outputs = 512, inputs = 2304;
  ThreadPool pool({});
  const std::vector<float> row = Activations(inputs);
  std::vector<std::byte> to(PackedBytes(precision, outputs, inputs));
  for (auto _ : state) {
    const absl::Status status = PackMatrix(
        pool, precision, outputs, inputs,
        [&](int64_t, absl::Span<float> values) { std::copy(row.begin(), row.end(), values.begin()); }, to.data());
    benchmark::DoNotOptimize(status.ok());
  }
  SetRate(state, "weights/s", static_cast<double>(outputs * inputs));
}
BENCHMARK_CAPTURE(BM_PackMatrix, bf16, WeightPrecision::kBf16)->UseRealTime();
BENCHMARK_CAPTURE(BM_PackMatrix, int8, WeightPrecision::kInt8)->UseRealTime();
BENCHMARK_CAPTURE(BM_PackMatrix, int4, WeightPrecision::kInt4)->UseRealTime();

}  // namespace
}  // namespace baton
