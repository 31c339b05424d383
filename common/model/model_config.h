// A model as data: family, dimensions, and the list of blocks that the forward pass walks. Parsed from a Hugging Face
// config.json; every field that matters is required, none is filled from memory of library defaults.
//
// Sources of each rule: HF transformers v4.45 configs, google-deepmind/recurrentgemma; see docs/architecture.md.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baton {

enum class ModelFamily { kGemma, kGemma2, kRecurrentGemma };

// "gemma", "gemma2", "recurrent_gemma": the config's model_type.
absl::string_view FamilyName(ModelFamily family);

// The sequence mixer of one layer.
enum class MixerKind { kGlobalAttention, kWindowAttention, kRecurrent };

struct ModelConfig {
  ModelFamily family = ModelFamily::kGemma2;
  int64_t vocab_size = 0;
  int hidden_size = 0;
  // Width of gate and up: for RecurrentGemma half of the file's intermediate_size.
  int mlp_width = 0;
  int num_layers = 0;
  int num_heads = 0;
  int num_kv_heads = 0;
  int head_dim = 0;
  std::vector<MixerKind> mixers;  // [num_layers]

  // Keys a query of a window layer sees, itself included. Gemma 2: sliding_window. RecurrentGemma:
  // attention_window_size + 1 with DeepMind's semantics (default), attention_window_size with transformers'.
  int64_t visible_keys = 0;
  // query_pre_attn_scalar^-0.5 or head_dim^-0.5.
  float attention_scale = 0;
  // 0: none.
  float attention_soft_cap = 0;
  float final_soft_cap = 0;
  float rms_norm_eps = 1e-6f;
  double rope_theta = 10000.0;
  // Leading dims of each head that RoPE rotates: head_dim, or half of it for RecurrentGemma.
  int rotary_dim = 0;
  // Four norms a block (Gemma 2) instead of two.
  bool post_norms = false;
  bool mlp_bias = false;
  bool o_proj_bias = false;
  // Round sqrt(hidden_size) to bfloat16 before scaling embeddings: always for RecurrentGemma; for Gemma 1 and 2 only
  // when computing in bf16.
  bool always_round_embedding_scale = false;
  // What the file says (absent: true). Baton serves tied heads only: when false, an lm_head.weight equal to the
  // embedding must be there.
  bool tied_embeddings = true;
  // RecurrentGemma only.
  int lru_width = 0;
  int conv_width = 0;
  int gate_blocks = 0;  // = num_heads
  // Prompt + output. max_position_embeddings; RecurrentGemma has none: kRecurrentGemmaMaxTokens.
  int64_t max_tokens = 0;

  int64_t QueryWidth() const { return int64_t{num_heads} * head_dim; }
  int64_t KvWidth() const { return int64_t{num_kv_heads} * head_dim; }
};

inline constexpr int64_t kRecurrentGemmaMaxTokens = 131072;

struct ConfigOptions {
  // RecurrentGemma: W+1 visible keys as in DeepMind's implementation; false: W, as in transformers' decode.
  bool deepmind_window = true;
};

// `text`: the file's contents; `path` only names it in errors.
//   INVALID_ARGUMENT  not JSON, a missing or ill-typed field, values that contradict each other or are absurd
//   UNIMPLEMENTED     an architecture or activation that Baton does not serve
absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text, absl::string_view path,
                                             const ConfigOptions& options = {});

// What generation_config.json (optional) says; token ids fall back to those of config.json.
struct GenerationConfig {
  int32_t bos_token_id = 2;
  int32_t pad_token_id = 0;
  std::vector<int32_t> eos_token_ids = {1};
  // < 0: not given.
  float temperature = -1;
  int32_t top_k = -1;
  float top_p = -1;
  float repetition_penalty = -1;
  int32_t max_new_tokens = -1;
  // -1: not given; 0/1.
  int do_sample = -1;
};

// `generation_text` is empty when there is no such file; `path` names it in errors, config.json is taken to lie beside
// it.
//   INVALID_ARGUMENT  not JSON, ill-typed, token ids outside the vocabulary, values out of range
absl::StatusOr<GenerationConfig> ParseGenerationConfig(absl::string_view generation_text, absl::string_view config_text,
                                                       absl::string_view path);

}  // namespace baton
