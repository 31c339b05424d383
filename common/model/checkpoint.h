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
#include "common/model/model_config.h"
#include "common/model/safetensors_file.h"
#include "common/model/tensor_view.h"

namespace baton {

// Name and shape of every tensor a config calls for, in file order. Used for validation and for synthetic checkpoints.
struct TensorSpec {
  std::string name;
  std::vector<int64_t> shape;
  // What the dimensions mean in terms of config.json: "[num_attention_heads * head_dim, hidden_size]".
  std::string meaning;
};
std::vector<TensorSpec> ExpectedTensors(const ModelConfig& config);

class Checkpoint {
 public:
  //   NOT_FOUND         no such directory, no config.json or weights in it, or a shard that the index names is missing
  //   INVALID_ARGUMENT  a file that is malformed, or files that contradict each other
  //   UNIMPLEMENTED     an architecture or feature that Baton does not serve
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
  // Elements of the tensors that the config calls for.
  int64_t parameters() const;
  // Bytes of tensor data in the files.
  int64_t tensor_bytes() const;
  // Paths of the safetensors files.
  std::vector<std::string> WeightFiles() const;
  // What was read of them stops counting as this process's memory; reading it again reads the file again.
  void DropTensorPages() const;
  // Hash of config, tensor names, shapes, types and sampled contents: first, last and evenly spaced 4 KiB blocks of
  // each tensor, all of it for tensors up to 64 KiB. Cheap also for checkpoints that are not in the page cache. The
  // same for the same model in one file or in shards. 32 hex digits.
  std::string ContentHash() const;

 private:
  // Where a tensor is: files_[file].tensors()[tensor].
  struct Place {
    size_t file = 0;
    size_t tensor = 0;
  };

  absl::Status OpenSingleFile(const std::string& path);
  // model.safetensors.index.json and the shards it names.
  absl::Status OpenShards(const std::string& index_path);
  absl::Status AddFile(const std::string& path);
  absl::Status CheckLeftovers(const std::vector<TensorSpec>& expected) const;
  absl::Status CheckOutputHead() const;
  const TensorView* FindByName(absl::string_view name) const;

  std::string directory_;
  // The file users know the tensors by: model.safetensors, or the index of the shards.
  std::string tensors_path_;
  ModelConfig config_;
  GenerationConfig generation_;
  std::string config_text_;
  std::string tokenizer_;
  std::vector<SafetensorsFile> files_;
  // Once computed; empty before.
  mutable std::string content_hash_;
  absl::flat_hash_map<std::string, Place> index_;
};

}  // namespace baton
