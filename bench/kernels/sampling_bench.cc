// What picking a token costs, over a vocabulary of Gemma's size. A step over one sequence's logits should stay well
// under a millisecond.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <random>
#include <vector>

#include "common/compute/rowwise.h"
#include "common/sampling/sampler.h"
#include "common/sampling/vocabulary_scan.h"

namespace baton {
namespace {

constexpr size_t kVocabulary = 256000;

const std::vector<float>& Logits() {
  static const std::vector<float>* const logits = [] {
    std::mt19937 random(1);
    std::normal_distribution<float> normal(0, 4);
    auto* values = new std::vector<float>(kVocabulary);
    for (float& value : *values) value = normal(random);
    return values;
  }();
  return *logits;
}

void Sample(benchmark::State& state, const SamplingParams& params) {
  Sampler sampler;
  TokenHistory history;
  int64_t position = 0;
  for (auto _ : state) benchmark::DoNotOptimize(sampler.Sample(Logits(), params, history, {}, position++));
}

void BM_SampleGreedy(benchmark::State& state) { Sample(state, {.temperature = 0}); }
void BM_SampleWholeVocabulary(benchmark::State& state) { Sample(state, {}); }
void BM_SampleTopK(benchmark::State& state) { Sample(state, {.top_k = 64}); }
void BM_SampleTopP(benchmark::State& state) { Sample(state, {.top_p = 0.95f}); }
void BM_SampleBiased(benchmark::State& state) { Sample(state, {.temperature = 0, .logit_bias = {{5, 1.0f}}}); }
BENCHMARK(BM_SampleGreedy);
BENCHMARK(BM_SampleWholeVocabulary);
BENCHMARK(BM_SampleTopK);
BENCHMARK(BM_SampleTopP);
BENCHMARK(BM_SampleBiased);

void BM_ComputeLogprob(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(ComputeLogprob(Logits(), 7, static_cast<int>(state.range(0))));
}
BENCHMARK(BM_ComputeLogprob)->Arg(0)->Arg(10);

void BM_FindLargest(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(FindLargest(Logits()));
}
BENCHMARK(BM_FindLargest);

void BM_FindLargestReference(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(FindLargestReference(Logits()));
}
BENCHMARK(BM_FindLargestReference);

void BM_LargestAndSumExp(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(LargestAndSumExp(Logits()));
}
BENCHMARK(BM_LargestAndSumExp);

void BM_SumExpReference(benchmark::State& state) {
  for (auto _ : state) benchmark::DoNotOptimize(SumExpReference(Logits(), 20.0f, 1.0f));
}
BENCHMARK(BM_SumExpReference);

void BM_SortReference(benchmark::State& state) {
  std::vector<float> sorted;
  for (auto _ : state) {
    sorted = Logits();
    std::sort(sorted.begin(), sorted.end());
    benchmark::DoNotOptimize(sorted.data());
  }
}
BENCHMARK(BM_SortReference);

// The final soft cap of one row of logits, on one thread.
void BM_SoftCap(benchmark::State& state) {
  std::vector<float> logits = Logits();
  for (auto _ : state) SoftCap(30.0f, static_cast<int64_t>(logits.size()), logits.data());
}
BENCHMARK(BM_SoftCap);

void BM_SoftCapReference(benchmark::State& state) {
  std::vector<float> logits = Logits();
  for (auto _ : state) {
    for (float& logit : logits) logit = static_cast<float>(SoftCapReference(30.0, logit));
  }
}
BENCHMARK(BM_SoftCapReference);

}  // namespace
}  // namespace baton
