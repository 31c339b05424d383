// A golden file: prompts and what a reference implementation computed for them, as safetensors. Names:
//
//   p{L}.tokens, .logits, .greedy, .greedy_margin, .step_logits     prompts of L tokens, and greedy decoding after them
//   all40.*, long1000.*                                             logits at every position; at the end of a long one
//   p{L}.hidden.{embed,layer{i},final_norm}                         residual stream at every position
//   p{L}.cache.layer{i}.{k,v,rg_lru_state,conv1d_state}             inference state after the prompt
//   p{L}.alt_window.logits, p{L}.alt_embscale.logits                documented variants of the model
//
// Tensors a file does not have are simply not checked; tensors of the wrong type or shape are errors.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "common/model/model_config.h"
#include "common/model/safetensors_file.h"

namespace baton {

struct GoldenPrompt {
  std::string label;  // "p17", "all40", "long1000"
  std::vector<int32_t> tokens;
  // Greedy continuation and how far the best logit was ahead of the second; empty when not stored.
  std::vector<int32_t> greedy;
  std::vector<float> greedy_margin;
};

class GoldenFile {
 public:
  // INVALID_ARGUMENT also when its token ids or logits do not fit `config`'s vocabulary.
  static absl::StatusOr<GoldenFile> Open(const std::string& path, const ModelConfig& config);

  // Shortest first.
  const std::vector<GoldenPrompt>& prompts() const { return prompts_; }
  bool Has(absl::string_view name) const { return file_.Find(name) != nullptr; }
  // 0 when there is no such tensor.
  int64_t Elements(absl::string_view name) const {
    const TensorView* tensor = file_.Find(name);
    return tensor == nullptr ? 0 : tensor->elements();
  }
  // All elements of an F32 tensor. INVALID_ARGUMENT unless it has `elements` of them.
  absl::StatusOr<std::vector<float>> Floats(absl::string_view name, int64_t elements) const;
  const std::string& path() const { return file_.path(); }

 private:
  explicit GoldenFile(SafetensorsFile file) : file_(std::move(file)) {}
  absl::Status AddPrompt(const std::string& label, const ModelConfig& config);
  absl::StatusOr<std::vector<int32_t>> TokenIds(absl::string_view name, const ModelConfig& config) const;

  SafetensorsFile file_;
  std::vector<GoldenPrompt> prompts_;
};

}  // namespace baton
