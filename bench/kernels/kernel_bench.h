// What the microbenchmarks share: inputs and counters.
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <vector>

#include "bench/random.h"

namespace baton {

// Uniform in [-scale, scale), the same at every run.
inline std::vector<float> RandomValues(int64_t count, float scale, uint64_t seed = 1) {
  Random random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = scale * static_cast<float>(2 * random.Uniform() - 1);
  return values;
}

// `amount` per iteration, shown per second.
inline void SetRate(benchmark::State& state, const char* name, double amount) {
  state.counters[name] = benchmark::Counter(amount, benchmark::Counter::kIsIterationInvariantRate);
}

}  // namespace baton
