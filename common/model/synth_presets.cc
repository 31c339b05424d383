#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/model/synth.h"

namespace baton {
namespace {

using nlohmann::ordered_json;

struct Shape {
  int hidden_size;
  int intermediate_size;
  int num_hidden_layers;
  int num_attention_heads;
  int num_key_value_heads;
  int head_dim;
};

ordered_json CommonFields(absl::string_view architecture, absl::string_view model_type, const Shape& shape) {
  return {
      {"architectures", {std::string(architecture)}},
      {"attention_bias", false},
      {"attention_dropout", 0.0},
      {"bos_token_id", 2},
      {"eos_token_id", 1},
      {"head_dim", shape.head_dim},
      {"hidden_activation", "gelu_pytorch_tanh"},
      {"hidden_size", shape.hidden_size},
      {"initializer_range", 0.02},
      {"intermediate_size", shape.intermediate_size},
      {"model_type", std::string(model_type)},
      {"num_attention_heads", shape.num_attention_heads},
      {"num_hidden_layers", shape.num_hidden_layers},
      {"num_key_value_heads", shape.num_key_value_heads},
      {"pad_token_id", 0},
      {"rms_norm_eps", 1e-06},
      {"rope_theta", 10000.0},
      {"torch_dtype", "bfloat16"},
      {"use_cache", true},
      {"vocab_size", 256000},
  };
}

// The files on the hub say hidden_act "gelu" and mean the tanh form.
ordered_json Gemma1(const Shape& shape) {
  ordered_json config = CommonFields("GemmaForCausalLM", "gemma", shape);
  config["hidden_act"] = "gelu";
  config["hidden_activation"] = nullptr;
  config["max_position_embeddings"] = 8192;
  config["rope_scaling"] = nullptr;
  return config;
}

ordered_json Gemma2(const Shape& shape, int query_pre_attn_scalar) {
  ordered_json config = CommonFields("Gemma2ForCausalLM", "gemma2", shape);
  config["attn_logit_softcapping"] = 50.0;
  config["cache_implementation"] = "hybrid";
  config["final_logit_softcapping"] = 30.0;
  config["hidden_act"] = "gelu_pytorch_tanh";
  config["max_position_embeddings"] = 8192;
  config["query_pre_attn_scalar"] = query_pre_attn_scalar;
  config["sliding_window"] = 4096;
  return config;
}

// `block_key`: the 2B file spells it with an underscore.
ordered_json RecurrentGemma(const Shape& shape, absl::string_view block_key) {
  ordered_json config = CommonFields("RecurrentGemmaForCausalLM", "recurrent_gemma", shape);
  config[std::string(block_key)] = {"recurrent", "recurrent", "attention"};
  config["attention_window_size"] = 2048;
  config["conv1d_width"] = 4;
  config["final_w_init_variance_scale"] = 2.0 / shape.num_hidden_layers;
  config["logits_soft_cap"] = 30.0;
  config["lru_width"] = shape.hidden_size;
  config["partial_rotary_factor"] = 0.5;
  config["w_init_variance_scale"] = 0.01;
  return config;
}

SynthPreset MakePreset(absl::string_view name, absl::string_view title, const ordered_json& config) {
  SynthPreset preset;
  preset.name = std::string(name);
  preset.config_text = config.dump(2) + "\n";
  const auto parsed = ParseModelConfig(preset.config_text, name);
  BATON_CHECK(parsed.ok());
  for (const TensorSpec& spec : ExpectedTensors(*parsed)) {
    int64_t elements = 1;
    for (int64_t dimension : spec.shape) elements *= dimension;
    preset.parameters += elements;
  }
  preset.description = absl::StrFormat("%s, %.2f billion parameters", title, preset.parameters / 1e9);
  return preset;
}

}  // namespace

const std::vector<SynthPreset>& SynthPresets() {
  static const auto& presets = *new std::vector<SynthPreset>{
      MakePreset("gemma-2b", "Gemma 2B", Gemma1({2048, 16384, 18, 8, 1, 256})),
      MakePreset("gemma-7b", "Gemma 7B", Gemma1({3072, 24576, 28, 16, 16, 256})),
      MakePreset("gemma-2-2b", "Gemma 2 2B", Gemma2({2304, 9216, 26, 8, 4, 256}, 256)),
      MakePreset("gemma-2-9b", "Gemma 2 9B", Gemma2({3584, 14336, 42, 16, 8, 256}, 256)),
      MakePreset("gemma-2-27b", "Gemma 2 27B", Gemma2({4608, 36864, 46, 32, 16, 128}, 144)),
      MakePreset("recurrentgemma-2b", "RecurrentGemma 2B",
                 RecurrentGemma({2560, 15360, 26, 10, 1, 256}, "_block_types")),
      MakePreset("recurrentgemma-9b", "RecurrentGemma 9B",
                 RecurrentGemma({4096, 24576, 38, 16, 1, 256}, "block_types")),
  };
  return presets;
}

}  // namespace baton
