// Synthetic checkpoints: Hugging Face directories of any supported shape with weights from a formula, so that real
// sizes can be tested and benchmarked without downloads. The weights are bit-identical on every machine: element i of a
// tensor is a pure function of (tensor name, seed, i, last dimension), and scaled so that activations stay in a sane
// range. The text such a model produces is noise.
//
//   SynthOptions options;
//   options.preset = "gemma-2-2b";
//   options.out = "/models/gemma-2-2b-synth";
//   BATON_ASSIGN_OR_RETURN(SynthSummary summary, WriteSyntheticCheckpoint(options));
//
// Memory stays at a few MiB per thread whatever the checkpoint's size. config.json is written last: a directory whose
// writing was interrupted never passes for a checkpoint.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/model/checkpoint.h"

namespace baton {

struct SynthPreset {
  std::string name;         // "gemma-2-2b"
  std::string description;  // "Gemma 2 2B, 2.61 billion parameters"
  std::string config_text;  // config.json as on the hub
  int64_t parameters = 0;
};

// gemma-2b, gemma-7b, gemma-2-2b, gemma-2-9b, gemma-2-27b, recurrentgemma-2b, recurrentgemma-9b.
const std::vector<SynthPreset>& SynthPresets();

struct SynthOptions {
  // Exactly one of both: a name out of SynthPresets(), or the text of a config.json.
  std::string preset;
  std::string config_text;
  // Only names config_text in errors.
  std::string config_path = "config.json";

  uint64_t seed = 1;
  // kF32, kF16 or kBF16; config.json's torch_dtype says the same.
  TensorType dtype = TensorType::kBF16;
  // Created when missing (parents too).
  std::string out;
  // Write into a directory that is not empty; its old checkpoint files are removed first.
  bool force = false;
  // Tensor bytes per file, as Hugging Face cuts them; a tensor larger than this gets a file of its own.
  int64_t shard_bytes = 5'000'000'000;
  // A tokenizer.model to copy in; empty: none, and only token ids can be served.
  std::string tokenizer_path;
  // 0: one per usable CPU.
  int threads = 0;
  // (tensor bytes written, tensor bytes in all), from the calling thread; may be empty.
  std::function<void(int64_t, int64_t)> progress;
};

struct SynthSummary {
  int64_t parameters = 0;
  int64_t tensor_bytes = 0;
  std::vector<std::string> files;  // names within `out`
};

//   INVALID_ARGUMENT     unknown preset (names those there are), bad config, neither or both given
//   ALREADY_EXISTS       `out` is not empty and force is false
//   RESOURCE_EXHAUSTED   too little free space on the disk; nothing was written
//   as the system says   anything that fails while writing; partial files are removed
absl::StatusOr<SynthSummary> WriteSyntheticCheckpoint(const SynthOptions& options);

// The formula by itself. `shape` is the tensor's Hugging Face shape; its last dimension decides the scale.
// Elements [begin, begin + out.size()) before any rounding to a smaller type.
void SynthWeights(absl::string_view tensor_name, absl::Span<const int64_t> shape, uint64_t seed, int64_t begin,
                  absl::Span<float> out);
// The 64 random bits behind element i; also what golden prompts are drawn from.
uint64_t SynthRaw(absl::string_view name, uint64_t seed, uint64_t i);

}  // namespace baton
