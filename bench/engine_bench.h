// Speed of the forward pass by itself, without servers: prefill of one prompt in chunks, and decode steps of a batch of
// sequences that all have the same context. Every figure comes with the least time the machine's limits allow for it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "bench/machine_limits.h"
#include "common/model/model.h"

namespace baton {

struct EngineBenchOptions {
  std::vector<int> batches = {1, 2, 4, 8, 16, 32};
  std::vector<int> prompts = {128, 512, 2048};
  // Tokens each sequence holds before the first decode step.
  std::vector<int> contexts = {128};
  int decode_steps = 16;
  int repeats = 3;
  // The longest run of one forward call.
  int chunk_tokens = 512;
};

// What a pass costs at the machine's limits: arithmetic at the rate of the best whole products, or weights and state
// through the memory bus once, whichever takes longer.
struct Bound {
  double flops = 0;
  double bytes = 0;

  double Seconds(const MachineLimits& limits, ComputeMode compute) const;
  // "memory" or "compute".
  const char* Name(const MachineLimits& limits, ComputeMode compute) const;
};

// The rate of whole matrix products in `compute`.
double PeakFlops(const MachineLimits& limits, ComputeMode compute);

struct EnginePass {
  double seconds = 0;
  MachineLimits limits;
};

struct EngineResult {
  enum class Phase { kPrefill, kDecode };
  Phase phase = Phase::kPrefill;
  int prompt = 0;      // kPrefill
  int batch = 0;       // kDecode
  int context = 0;     // kDecode: tokens before the first step
  int64_t tokens = 0;  // of one pass
  Bound bound;         // of one pass
  // Each with what the machine could do right before and right after it; the read bandwidth of a decode pass was
  // measured between its steps.
  std::vector<EnginePass> passes;

  // Tokens per second.
  double MedianRate() const;
  double MinRate() const;
  double MaxRate() const;
  // Median over the passes of the time the bound allows, divided by the time taken.
  double RatioToBound(ComputeMode compute) const;
  // Median over the passes of this speed divided by the other's, for decode of one batch size: step by step the two
  // were timed in turn.
  double SpeedOf(const EngineResult& other) const;
  // Of the pass with the median time.
  MachineLimits Limits() const;
};

// INVALID_ARGUMENT when a prompt or context is beyond what the model takes.
absl::Status CheckEngineBench(const Model& model, const EngineBenchOptions& options);

// Measures the machine after each pass (`meter` has done so right before), and calls `report` after each figure. Decode
// figures come by batch size, then in the order of options.contexts.
//   INVALID_ARGUMENT    as CheckEngineBench
//   RESOURCE_EXHAUSTED  states that don't fit half of memory
absl::Status RunEngineBench(Model& model, const EngineBenchOptions& options, MachineMeter& meter,
                            const std::function<void(const EngineResult&)>& report);

}  // namespace baton
