// Attention at the shapes of Gemma 2 2B (8 heads, 4 kv heads) and RecurrentGemma 2B (10 heads, 1 kv head), 256 dims
// each: counters say how fast it computes (prefill) and reads its keys and values (decode).
#include <vector>

#include "bench/kernels/kernel_bench.h"
#include "common/compute/attention.h"
#include "common/compute/bf16.h"

namespace baton {
namespace {

constexpr int kDim = 256;
constexpr int64_t kPage = 64;

struct Context {
  explicit Context(int64_t positions) : count(positions) {
    data.resize(positions / kPage);
    for (std::vector<uint16_t>& page : data) {
      for (const float value : RandomValues(2 * kPage * kDim, 1, rows.size() + 1)) page.push_back(FloatToBf16(value));
      const auto* keys = reinterpret_cast<const std::byte*>(page.data());
      rows.push_back({keys, keys + 2 * kPage * kDim, static_cast<int64_t>(rows.size()) * kPage, kPage});
    }
  }
  int64_t count;
  std::vector<std::vector<uint16_t>> data;
  std::vector<KeyValueRows> rows;
};

struct Queries {
  Queries(const Context& context, int count) : vectors(count * kDim), outputs(count * kDim) {
    for (size_t i = 0; i < vectors.size(); ++i) vectors[i] = static_cast<float>(i * 7919 % 1000) * 1e-3f - 0.5f;
    for (int q = 0; q < count; ++q) list.push_back({&vectors[q * kDim], &outputs[q * kDim], 0, context.count});
  }
  std::vector<float> vectors, outputs;
  std::vector<AttentionQuery> list;
};

AttentionShape Shape(float soft_cap) { return {kDim, 1.0f / 16, soft_cap, KvElement::kBf16, true}; }

// A tile of queries against `positions` keys.
void BM_AttendPrefill(benchmark::State& state) {
  const Context context(state.range(1));
  Queries queries(context, static_cast<int>(state.range(0)));
  const AttentionShape shape = Shape(static_cast<float>(state.range(2)));
  for (auto _ : state) Attend(shape, context.rows, queries.list);
  const double flops = 4.0 * static_cast<double>(state.range(0) * state.range(1)) * kDim;
  SetRate(state, "FLOP/s", flops);
}
BENCHMARK(BM_AttendPrefill)
    ->ArgsProduct({{64}, {512, 4096}, {0, 50}})
    ->Args({1, 256, 50})
    ->Args({2, 256, 50})
    ->Args({10, 256, 50});

// One sequence after the other, each with a context of its own, so that keys and values come from memory.
void BM_AttendDecode(benchmark::State& state) {
  constexpr int kSequences = 64;
  std::vector<Context> contexts;
  contexts.reserve(kSequences);
  for (int i = 0; i < kSequences; ++i) contexts.emplace_back(state.range(1));
  Queries queries(contexts[0], static_cast<int>(state.range(0)));
  const AttentionShape shape = Shape(50);
  int next = 0;
  for (auto _ : state) {
    Attend(shape, contexts[next].rows, queries.list);
    next = (next + 1) % kSequences;
  }
  const double bytes = 4.0 * static_cast<double>(state.range(1)) * kDim;
  SetRate(state, "bytes/s", bytes);
}
BENCHMARK(BM_AttendDecode)->Args({2, 4096})->Args({10, 4096})->Args({5, 4096})->Args({1, 4096});

void BM_AttendReference(benchmark::State& state) {
  const Context context(512);
  const Queries queries(context, 1);
  for (auto _ : state) AttendReference(Shape(50), context.rows, queries.list[0]);
}
BENCHMARK(BM_AttendReference);

}  // namespace
}  // namespace baton
