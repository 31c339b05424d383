#include <utility>

#include "absl/strings/str_cat.h"
#include "common/model/checkpoint.h"

namespace baton {
namespace {

// One dimension and where it comes from.
struct Dimension {
  int64_t size;
  absl::string_view meaning;
};

// The config's dimensions under their config.json names.
struct Dimensions {
  explicit Dimensions(const ModelConfig& config)
      : vocabulary{config.vocab_size, "vocab_size"},
        hidden{config.hidden_size, "hidden_size"},
        mlp{config.mlp_width,
            config.family == ModelFamily::kRecurrentGemma ? "intermediate_size / 2" : "intermediate_size"},
        query{config.QueryWidth(), "num_attention_heads * head_dim"},
        key_value{config.KvWidth(), "num_key_value_heads * head_dim"},
        lru{config.lru_width, "lru_width"},
        conv{config.conv_width, "conv1d_width"},
        gate_blocks{config.gate_blocks, "num_attention_heads"},
        gate_block{config.gate_blocks == 0 ? 0 : config.lru_width / config.gate_blocks,
                   "lru_width / num_attention_heads"},
        one{1, "1"} {}

  Dimension vocabulary, hidden, mlp, query, key_value, lru, conv, gate_blocks, gate_block, one;
};

class SpecList {
 public:
  void Add(std::string name, std::initializer_list<Dimension> dimensions) {
    TensorSpec spec{std::move(name), {}, "["};
    for (const Dimension& dimension : dimensions) {
      absl::StrAppend(&spec.meaning, spec.shape.empty() ? "" : ", ", dimension.meaning);
      spec.shape.push_back(dimension.size);
    }
    spec.meaning += "]";
    specs_.push_back(std::move(spec));
  }
  // `prefix`.weight [out, in] and, when asked for, `prefix`.bias [out].
  void AddLinear(const std::string& prefix, Dimension out, Dimension in, bool bias) {
    Add(prefix + ".weight", {out, in});
    if (bias) Add(prefix + ".bias", {out});
  }
  std::vector<TensorSpec> Take() { return std::move(specs_); }

 private:
  std::vector<TensorSpec> specs_;
};

void AddAttention(const std::string& prefix, const Dimensions& d, bool o_proj_bias, SpecList& specs) {
  specs.AddLinear(prefix + ".q_proj", d.query, d.hidden, false);
  specs.AddLinear(prefix + ".k_proj", d.key_value, d.hidden, false);
  specs.AddLinear(prefix + ".v_proj", d.key_value, d.hidden, false);
  specs.AddLinear(prefix + ".o_proj", d.hidden, d.query, o_proj_bias);
}

void AddMlp(const std::string& prefix, const Dimensions& d, bool bias, SpecList& specs) {
  specs.AddLinear(prefix + ".gate_proj", d.mlp, d.hidden, bias);
  specs.AddLinear(prefix + ".up_proj", d.mlp, d.hidden, bias);
  specs.AddLinear(prefix + ".down_proj", d.hidden, d.mlp, bias);
}

void AddRecurrence(const std::string& prefix, const Dimensions& d, SpecList& specs) {
  specs.AddLinear(prefix + ".linear_x", d.lru, d.hidden, true);
  specs.AddLinear(prefix + ".linear_y", d.lru, d.hidden, true);
  specs.AddLinear(prefix + ".linear_out", d.hidden, d.lru, true);
  specs.Add(prefix + ".conv_1d.weight", {d.lru, d.one, d.conv});
  specs.Add(prefix + ".conv_1d.bias", {d.lru});
  specs.Add(prefix + ".rg_lru.recurrent_param", {d.lru});
  for (absl::string_view gate : {"input_gate", "recurrent_gate"}) {
    specs.Add(absl::StrCat(prefix, ".rg_lru.", gate, "_weight"), {d.gate_blocks, d.gate_block, d.gate_block});
    specs.Add(absl::StrCat(prefix, ".rg_lru.", gate, "_bias"), {d.gate_blocks, d.gate_block});
  }
}

void AddGemmaLayer(const std::string& layer, const ModelConfig& config, const Dimensions& d, SpecList& specs) {
  specs.Add(layer + ".input_layernorm.weight", {d.hidden});
  AddAttention(layer + ".self_attn", d, config.o_proj_bias, specs);
  specs.Add(layer + ".post_attention_layernorm.weight", {d.hidden});
  if (config.post_norms) specs.Add(layer + ".pre_feedforward_layernorm.weight", {d.hidden});
  AddMlp(layer + ".mlp", d, config.mlp_bias, specs);
  if (config.post_norms) specs.Add(layer + ".post_feedforward_layernorm.weight", {d.hidden});
}

void AddGriffinLayer(const std::string& layer, const ModelConfig& config, MixerKind mixer, const Dimensions& d,
                     SpecList& specs) {
  specs.Add(layer + ".temporal_pre_norm.weight", {d.hidden});
  if (mixer == MixerKind::kRecurrent) {
    AddRecurrence(layer + ".temporal_block", d, specs);
  } else {
    AddAttention(layer + ".temporal_block", d, config.o_proj_bias, specs);
  }
  specs.Add(layer + ".channel_pre_norm.weight", {d.hidden});
  AddMlp(layer + ".mlp_block", d, config.mlp_bias, specs);
}

}  // namespace

std::vector<TensorSpec> ExpectedTensors(const ModelConfig& config) {
  const Dimensions d(config);
  const bool griffin = config.family == ModelFamily::kRecurrentGemma;
  SpecList specs;
  specs.Add("model.embed_tokens.weight", {d.vocabulary, d.hidden});
  for (int i = 0; i < config.num_layers; ++i) {
    const std::string layer = absl::StrCat("model.layers.", i);
    if (griffin) {
      AddGriffinLayer(layer, config, config.mixers[i], d, specs);
    } else {
      AddGemmaLayer(layer, config, d, specs);
    }
  }
  specs.Add(griffin ? "model.final_norm.weight" : "model.norm.weight", {d.hidden});
  return specs.Take();
}

}  // namespace baton
