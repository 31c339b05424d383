// A Hugging Face checkpoint directory: config.json, generation_config.json, tokenizer.model and one or many safetensors
// files, mapped (never read into a second copy) and fully checked before anyone sees a tensor.
//
//   BATON_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open("/models/gemma-2-2b-it"));
//   BATON_ASSIGN_OR_RETURN(TensorView q, checkpoint.Find("model.layers.0.self_attn.q_proj.weight", {2048, 2304}));
//
// Errors name the file, the tensor and what was expected.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "common/base/mapped_file.h"
#include "common/model/model_config.h"

namespace baton {

enum class TensorType { kF32, kF16, kBF16, kI32, kI64 };

int64_t TensorTypeBytes(TensorType type);
absl::string_view TensorTypeName(TensorType type);

// Bytes in the mapping; little-endian, row-major, not necessarily aligned.
struct TensorView {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;
  const std::byte* data = nullptr;
  int64_t bytes = 0;

  int64_t elements() const { return bytes / TensorTypeBytes(type); }
  // Elements [begin, begin + out.size()) as float32 (exact for all three float types).
  void ToFloat(int64_t begin, absl::Span<float> out) const;
};

// One .safetensors file. Also used for golden files.
class SafetensorsFile {
 public:
  //   INVALID_ARGUMENT  truncated, header length absurd or not JSON, unknown dtype, size that contradicts the shape,
  //                     offsets overlapping, out of range or leaving holes
  //   NOT_FOUND         no such file
  static absl::StatusOr<SafetensorsFile> Open(const std::string& path);
  // The same from memory (tests, fuzzing); `data` must outlive the result.
  static absl::StatusOr<SafetensorsFile> Parse(absl::string_view data, absl::string_view path);

  // nullptr when there is none.
  const TensorView* Find(absl::string_view name) const;
  const std::vector<TensorView>& tensors() const { return tensors_; }  // by offset
  const absl::flat_hash_map<std::string, std::string>& metadata() const { return metadata_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  std::shared_ptr<MappedFile> file_;
  std::vector<TensorView> tensors_;
  absl::flat_hash_map<std::string, size_t> index_;
  absl::flat_hash_map<std::string, std::string> metadata_;
};

class Checkpoint {
 public:
  static absl::StatusOr<Checkpoint> Open(const std::string& directory, const ConfigOptions& options = {});

  const std::string& directory() const { return directory_; }
  const ModelConfig& config() const { return config_; }
  const GenerationConfig& generation() const { return generation_; }
  // Contents of tokenizer.model; empty when the directory has none (then only token ids can be served).
  const std::string& tokenizer() const { return tokenizer_; }

  // INVALID_ARGUMENT naming file, tensor, the expected shape and the one found (or that it is missing).
  absl::StatusOr<TensorView> Find(absl::string_view name, absl::Span<const int64_t> shape) const;
  // Every tensor of the config exists with its shape, and none is left over (lm_head.weight is tolerated when equal to
  // the embedding). Called by Open.
  absl::Status Validate() const;
  int64_t parameters() const;
  // Bytes of tensor data in the files.
  int64_t tensor_bytes() const;
  // Hash of config, tensor names, shapes, types and sampled contents: first, last and evenly spaced 4 KiB blocks of
  // each tensor, all of it for tensors up to 64 KiB. Cheap also for checkpoints that are not in the page cache.
  std::string ContentHash() const;

 private:
  std::string directory_;
  ModelConfig config_;
  GenerationConfig generation_;
  std::string config_text_;
  std::string tokenizer_;
  std::vector<SafetensorsFile> files_;
  // Tensor name -> (file, tensor).
  absl::flat_hash_map<std::string, std::pair<size_t, size_t>> index_;
};

// Name and shape of every tensor a config calls for, in file order. Used for validation and for synthetic checkpoints.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
};
std::vector<TensorSpec> ExpectedTensors(const ModelConfig& config);

}  // namespace baton
