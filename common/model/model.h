// A loaded model and its one forward function over a ragged batch.
//
// A batch is a list of runs: 1..max_run_tokens tokens of one sequence at its position. Prefill chunks, decode steps and
// scoring are the same call. Linear layers see all rows at once; sequence mixers look at one run's state.
//
// Promise (all precisions but f32): a row's result depends only on the tokens before it in its own sequence, bit for
// bit within an instruction set, whatever shares the batch, however the prompt is chunked, however many threads run. In
// f32 the matrix products are OpenBLAS's, so the same holds within the noise floor.
//
//   BATON_ASSIGN_OR_RETURN(auto model, Model::Load(dir, options));
//   std::vector<SequenceRun> runs = {{&state, tokens, /*logits_from=*/tokens.size() - 1}};
//   model->Forward(runs, logits);    // logits: [rows wanted, vocab_size]; advances every state
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/compute/packed_matrix.h"
#include "common/model/checkpoint.h"
#include "common/model/load_observer.h"
#include "common/model/model_config.h"
#include "common/state/fingerprint.h"
#include "common/state/sequence_state.h"

namespace baton {

// What a precision of weights means for everything else. kF32: float32 throughout, SGEMM: the exact mode. kBF16: inputs
// of matrix products rounded to bfloat16, float32 accumulation and residual stream; KV and conv state in bfloat16,
// RG-LRU state in float32.
enum class ComputeMode { kF32, kBF16 };
absl::string_view ComputeModeName(ComputeMode mode);  // "f32", "bf16"
ComputeMode ComputeModeOf(WeightPrecision weights);

struct ModelOptions {
  WeightPrecision weights = WeightPrecision::kBf16;
  // Threads of the forward pass, the calling one included. 0: one per usable CPU.
  int threads = 0;
  // Where packed weights are kept between runs and shared between processes. Empty: in this process's memory.
  std::string cache_dir;
  ConfigOptions config;
  LoadObserver observer;
};

struct SequenceRun {
  SequenceState* state = nullptr;
  // At positions state->position() ...; 1 <= size <= layout.max_run_tokens.
  absl::Span<const int32_t> tokens;
  // Logits are wanted for tokens[logits_from ...]; tokens.size() for none.
  size_t logits_from = 0;
};

// Sees intermediate values; for golden_check and tests.
class ForwardObserver {
 public:
  virtual ~ForwardObserver() = default;
  // `what`: "embed", "layer0" .. "layer{n-1}" (residual stream after it), "final_norm". rows: [tokens in batch,
  // hidden].
  virtual void OnHidden(absl::string_view what, absl::Span<const float> rows) = 0;
};

// Called on the thread that calls Forward, once for each layer in order, when the layer's part of all states is as the
// call leaves it (the states have not advanced yet): it may leave for elsewhere while later layers are computed.
using LayerDone = std::function<void(int layer)>;

class Model {
 public:
  // Errors as Checkpoint::Open and PackWeights. Prints nothing.
  static absl::StatusOr<std::unique_ptr<Model>> Load(const std::string& directory, const ModelOptions& options);
  // Of a checkpoint that was opened with options.config.
  static absl::StatusOr<std::unique_ptr<Model>> Load(Checkpoint checkpoint, const ModelOptions& options);
  ~Model();
  Model(const Model&) = delete;

  const ModelConfig& config() const;
  const GenerationConfig& generation() const;
  const std::string& tokenizer() const;  // tokenizer.model's bytes, possibly empty
  WeightPrecision weights() const;
  ComputeMode compute() const { return ComputeModeOf(weights()); }
  // Weights, precision and state layout (but not max_run_tokens, which changes no bytes on the wire).
  const Fingerprint& fingerprint() const;
  int64_t parameters() const;
  // Bytes of weights resident or mapped.
  int64_t weight_bytes() const;

  std::shared_ptr<const StateLayout> MakeStateLayout(int max_run_tokens) const;

  // Runs the batch. `logits`: [sum over runs of (tokens.size() - logits_from), vocab_size], soft-capped, in run order.
  // Every token id must be in [0, vocab_size) and every state must have room: callers check (CHECKed here). Not
  // thread-safe: one engine thread per model.
  void Forward(absl::Span<const SequenceRun> runs, absl::Span<float> logits, ForwardObserver* observer = nullptr,
               const LayerDone& layer_done = nullptr);

 private:
  struct Impl;
  explicit Model(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace baton
