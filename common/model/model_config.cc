#include "common/model/model_config.h"

#include <cmath>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "common/base/status_macros.h"
#include "common/model/json_object.h"

namespace baton {
namespace {

using nlohmann::json;

// Far beyond any model of these families, and small enough that no product of two of them overflows int64.
constexpr int64_t kMinVocabulary = 4;  // pad, eos, bos and something to say
constexpr int64_t kMaxVocabulary = int64_t{1} << 24;
constexpr int64_t kMaxWidth = int64_t{1} << 18;
constexpr int64_t kMaxLayers = 1024;
constexpr int64_t kMaxHeads = 1024;
constexpr int64_t kMaxHeadDim = 4096;
constexpr int64_t kMaxConvWidth = 16;
constexpr int64_t kMaxPositions = int64_t{1} << 24;

constexpr absl::string_view kTanhGelu = "gelu_pytorch_tanh";

absl::Status Unsupported(const JsonFields& fields, absl::string_view message) {
  return absl::UnimplementedError(absl::StrCat(fields.path(), ": ", message));
}

absl::StatusOr<ModelFamily> ParseFamily(const JsonFields& fields) {
  BATON_ASSIGN_OR_RETURN(std::string type, fields.Text("model_type"));
  for (ModelFamily family : {ModelFamily::kGemma, ModelFamily::kGemma2, ModelFamily::kRecurrentGemma}) {
    if (type == FamilyName(family)) return family;
  }
  return Unsupported(fields, absl::StrCat("model_type is ", Quoted(type),
                                          ", which Baton does not serve; it serves gemma, gemma2 and recurrent_gemma"));
}

absl::string_view ArchitectureName(ModelFamily family) {
  switch (family) {
    case ModelFamily::kGemma:
      return "GemmaForCausalLM";
    case ModelFamily::kGemma2:
      return "Gemma2ForCausalLM";
    case ModelFamily::kRecurrentGemma:
      return "RecurrentGemmaForCausalLM";
  }
  return "";
}

// A classifier or embedder has the model_type of the language model it was made from.
absl::Status CheckArchitecture(const JsonFields& fields, ModelFamily family) {
  const json* names = fields.Get("architectures");
  if (names == nullptr) return absl::OkStatus();
  if (!names->is_array()) return fields.Error("architectures", "is not a list");
  if (names->empty()) return absl::OkStatus();
  for (const json& name : *names) {
    if (name.is_string() && name.get_ref<const std::string&>() == ArchitectureName(family).data()) {
      return absl::OkStatus();
    }
  }
  return Unsupported(fields, absl::StrCat("architectures is ", Quoted(names->dump()), "; for model_type ",
                                          FamilyName(family), " Baton serves ", ArchitectureName(family)));
}

// What Baton would silently compute wrongly is refused.
absl::Status CheckUnsupportedFeatures(const JsonFields& fields) {
  for (absl::string_view key : {"attention_bias", "use_bidirectional_attention"}) {
    if (!fields.Has(key)) continue;
    BATON_ASSIGN_OR_RETURN(bool on, fields.Boolean(key));
    if (on) return Unsupported(fields, absl::StrCat(key, " is true, which Baton does not implement"));
  }
  for (absl::string_view key : {"rope_scaling", "quantization_config"}) {
    if (fields.Has(key)) return Unsupported(fields, absl::StrCat(key, " is set, which Baton does not implement"));
  }
  if (fields.Has("embeddings_scale_by_sqrt_dim")) {
    BATON_ASSIGN_OR_RETURN(bool scaled, fields.Boolean("embeddings_scale_by_sqrt_dim"));
    if (!scaled) return Unsupported(fields, "embeddings_scale_by_sqrt_dim is false, which Baton does not implement");
  }
  return absl::OkStatus();
}

absl::Status CheckActivation(const JsonFields& fields, ModelFamily family) {
  // Gemma 1 files say hidden_act "gelu" and mean the tanh form; only hidden_activation counts there, when it is given.
  absl::string_view key = "hidden_activation";
  if (!fields.Has(key)) {
    if (family == ModelFamily::kGemma) return absl::OkStatus();
    if (fields.Has("hidden_act")) key = "hidden_act";
  }
  BATON_ASSIGN_OR_RETURN(std::string activation, fields.Text(key));
  if (absl::string_view(activation) == kTanhGelu) return absl::OkStatus();
  return Unsupported(fields, absl::StrCat(key, " is ", Quoted(activation), "; Baton implements ", kTanhGelu));
}

// A number that newer files keep inside rope_parameters and older ones at the top.
absl::StatusOr<double> RopeNumber(const JsonFields& fields, absl::string_view key, double low, double high) {
  const json* rope = fields.Get("rope_parameters");
  if (rope == nullptr) return fields.Number(key, low, high);
  const JsonFields inner(*rope, absl::StrCat(fields.path(), ": rope_parameters"));
  if (!inner.Has(key)) return fields.Number(key, low, high);
  BATON_ASSIGN_OR_RETURN(double value, inner.Number(key, low, high));
  if (!fields.Has(key)) return value;
  BATON_ASSIGN_OR_RETURN(double outer, fields.Number(key, low, high));
  if (outer != value) {
    return fields.Error(key, absl::StrFormat("is %g, but %g inside rope_parameters", outer, value));
  }
  return value;
}

absl::Status ParseRope(const JsonFields& fields, ModelConfig& config) {
  if (const json* rope = fields.Get("rope_parameters")) {
    if (!rope->is_object()) return fields.Error("rope_parameters", "is not an object");
    const JsonFields inner(*rope, absl::StrCat(fields.path(), ": rope_parameters"));
    if (inner.Has("rope_type")) {
      BATON_ASSIGN_OR_RETURN(std::string type, inner.Text("rope_type"));
      if (type != "default") {
        return Unsupported(
            fields, absl::StrCat("rope_parameters.rope_type is ", Quoted(type), "; Baton implements \"default\""));
      }
    }
  }
  BATON_ASSIGN_OR_RETURN(config.rope_theta, RopeNumber(fields, "rope_theta", 1.0, 1e12));
  double fraction = 1.0;
  if (config.family == ModelFamily::kRecurrentGemma) {
    BATON_ASSIGN_OR_RETURN(fraction, RopeNumber(fields, "partial_rotary_factor", 0.0, 1.0));
  }
  const double rotary = config.head_dim * fraction;
  if (rotary < 2 || rotary != std::floor(rotary) || static_cast<int64_t>(rotary) % 2 != 0) {
    return fields.Error(
        "head_dim",
        absl::StrFormat("is %d, of which RoPE would rotate %g: expected an even number >= 2", config.head_dim, rotary));
  }
  config.rotary_dim = static_cast<int>(rotary);
  return absl::OkStatus();
}

struct IntegerField {
  absl::string_view key;
  int64_t high;
  int* value;
};

// The fields that all families share.
absl::Status ParseDimensions(const JsonFields& fields, ModelConfig& config) {
  BATON_ASSIGN_OR_RETURN(config.vocab_size, fields.Integer("vocab_size", kMinVocabulary, kMaxVocabulary));
  const IntegerField integers[] = {
      {"hidden_size", kMaxWidth, &config.hidden_size},          {"intermediate_size", kMaxWidth, &config.mlp_width},
      {"num_hidden_layers", kMaxLayers, &config.num_layers},    {"num_attention_heads", kMaxHeads, &config.num_heads},
      {"num_key_value_heads", kMaxHeads, &config.num_kv_heads}, {"head_dim", kMaxHeadDim, &config.head_dim},
  };
  for (const IntegerField& field : integers) {
    BATON_ASSIGN_OR_RETURN(int64_t value, fields.Integer(field.key, 1, field.high));
    *field.value = static_cast<int>(value);
  }
  if (config.num_heads % config.num_kv_heads != 0) {
    return fields.Error(
        "num_attention_heads",
        absl::StrCat("is ", config.num_heads, ", no multiple of num_key_value_heads ", config.num_kv_heads));
  }
  BATON_ASSIGN_OR_RETURN(double epsilon, fields.Number("rms_norm_eps", 1e-12, 0.1));
  config.rms_norm_eps = static_cast<float>(epsilon);
  if (fields.Has("tie_word_embeddings")) {
    BATON_ASSIGN_OR_RETURN(config.tied_embeddings, fields.Boolean("tie_word_embeddings"));
  }
  return ParseRope(fields, config);
}

// 0 for null: no cap. The key itself is required.
absl::StatusOr<float> SoftCap(const JsonFields& fields, absl::string_view key) {
  if (fields.Mentions(key) && !fields.Has(key)) return 0.0f;
  BATON_ASSIGN_OR_RETURN(double cap, fields.Number(key, 1e-3, 1e6));
  return static_cast<float>(cap);
}

// layer_types, one name a layer; without it Gemma 2 alternates, beginning with a window layer.
absl::Status ParseGemma2Mixers(const JsonFields& fields, ModelConfig& config) {
  config.mixers.resize(config.num_layers);
  const json* types = fields.Get("layer_types");
  if (types == nullptr) {
    for (int i = 0; i < config.num_layers; ++i) {
      config.mixers[i] = i % 2 == 0 ? MixerKind::kWindowAttention : MixerKind::kGlobalAttention;
    }
    return absl::OkStatus();
  }
  if (!types->is_array()) return fields.Error("layer_types", "is not a list");
  if (types->size() != config.mixers.size()) {
    return fields.Error("layer_types",
                        absl::StrCat("has ", types->size(), " entries, but num_hidden_layers is ", config.num_layers));
  }
  for (size_t i = 0; i < config.mixers.size(); ++i) {
    const json& type = (*types)[i];
    if (type == "sliding_attention") {
      config.mixers[i] = MixerKind::kWindowAttention;
    } else if (type == "full_attention") {
      config.mixers[i] = MixerKind::kGlobalAttention;
    } else {
      return fields.Error("layer_types", absl::StrCat("names ", Quoted(type.dump()), " for layer ", i,
                                                      ", expected sliding_attention or full_attention"));
    }
  }
  return absl::OkStatus();
}

absl::Status ParseGemma(const JsonFields& fields, ModelConfig& config) {
  config.mixers.assign(config.num_layers, MixerKind::kGlobalAttention);
  config.attention_scale = static_cast<float>(1.0 / std::sqrt(config.head_dim));
  BATON_ASSIGN_OR_RETURN(config.max_tokens, fields.Integer("max_position_embeddings", 1, kMaxPositions));
  return absl::OkStatus();
}

absl::Status ParseGemma2(const JsonFields& fields, ModelConfig& config) {
  BATON_RETURN_IF_ERROR(ParseGemma2Mixers(fields, config));
  config.post_norms = true;
  BATON_ASSIGN_OR_RETURN(config.visible_keys, fields.Integer("sliding_window", 1, kMaxPositions));
  BATON_ASSIGN_OR_RETURN(double scalar, fields.Number("query_pre_attn_scalar", 1e-3, 1e6));
  config.attention_scale = static_cast<float>(1.0 / std::sqrt(scalar));
  BATON_ASSIGN_OR_RETURN(config.attention_soft_cap, SoftCap(fields, "attn_logit_softcapping"));
  BATON_ASSIGN_OR_RETURN(config.final_soft_cap, SoftCap(fields, "final_logit_softcapping"));
  BATON_ASSIGN_OR_RETURN(config.max_tokens, fields.Integer("max_position_embeddings", 1, kMaxPositions));
  return absl::OkStatus();
}

// The pattern repeats over the layers. The 2B file calls it _block_types, the 9B file block_types; either is checked
// against the tensors later, so a file with neither means the pattern that every released model has.
absl::Status ParseBlockTypes(const JsonFields& fields, ModelConfig& config) {
  const json* types = fields.Get("block_types");
  const json* underscored = fields.Get("_block_types");
  if (types != nullptr && underscored != nullptr && *types != *underscored) {
    return fields.Error("block_types",
                        absl::StrCat("is ", types->dump(), ", but _block_types is ", underscored->dump()));
  }
  if (types == nullptr) types = underscored;
  const json released = {"recurrent", "recurrent", "attention"};
  if (types == nullptr) types = &released;
  if (!types->is_array() || types->empty()) return fields.Error("block_types", "is not a list of names");
  for (const json& type : *types) {
    if (type != "recurrent" && type != "attention") {
      return fields.Error("block_types",
                          absl::StrCat("names ", Quoted(type.dump()), ", expected recurrent or attention"));
    }
  }
  for (int i = 0; i < config.num_layers; ++i) {
    const bool recurrent = (*types)[i % types->size()] == "recurrent";
    config.mixers.push_back(recurrent ? MixerKind::kRecurrent : MixerKind::kWindowAttention);
  }
  return absl::OkStatus();
}

absl::Status ParseRecurrentGemma(const JsonFields& fields, const ConfigOptions& options, ModelConfig& config) {
  BATON_RETURN_IF_ERROR(ParseBlockTypes(fields, config));
  if (config.mlp_width % 2 != 0) {
    return fields.Error("intermediate_size",
                        absl::StrCat("is ", config.mlp_width, ", expected an even number (twice the MLP's width)"));
  }
  config.mlp_width /= 2;
  config.mlp_bias = true;
  config.o_proj_bias = true;
  config.always_round_embedding_scale = true;
  config.attention_scale = static_cast<float>(1.0 / std::sqrt(config.head_dim));
  BATON_ASSIGN_OR_RETURN(int64_t window, fields.Integer("attention_window_size", 1, kMaxPositions));
  config.visible_keys = options.deepmind_window ? window + 1 : window;
  BATON_ASSIGN_OR_RETURN(config.final_soft_cap, SoftCap(fields, "logits_soft_cap"));
  BATON_ASSIGN_OR_RETURN(int64_t lru_width, fields.Integer("lru_width", 1, kMaxWidth));
  BATON_ASSIGN_OR_RETURN(int64_t conv_width, fields.Integer("conv1d_width", 2, kMaxConvWidth));
  config.lru_width = static_cast<int>(lru_width);
  config.conv_width = static_cast<int>(conv_width);
  config.gate_blocks = config.num_heads;
  if (config.lru_width % config.gate_blocks != 0) {
    return fields.Error("lru_width", absl::StrCat("is ", config.lru_width, ", no multiple of num_attention_heads ",
                                                  config.num_heads, " (the number of gate blocks)"));
  }
  config.max_tokens = kRecurrentGemmaMaxTokens;
  return absl::OkStatus();
}

}  // namespace

absl::string_view FamilyName(ModelFamily family) {
  switch (family) {
    case ModelFamily::kGemma:
      return "gemma";
    case ModelFamily::kGemma2:
      return "gemma2";
    case ModelFamily::kRecurrentGemma:
      return "recurrent_gemma";
  }
  return "unknown";
}

absl::StatusOr<ModelConfig> ParseModelConfig(absl::string_view text, absl::string_view path,
                                             const ConfigOptions& options) {
  BATON_ASSIGN_OR_RETURN(const json object, ParseJsonObject(text, path));
  const JsonFields fields(object, path);
  ModelConfig config;
  BATON_ASSIGN_OR_RETURN(config.family, ParseFamily(fields));
  BATON_RETURN_IF_ERROR(CheckArchitecture(fields, config.family));
  BATON_RETURN_IF_ERROR(CheckUnsupportedFeatures(fields));
  BATON_RETURN_IF_ERROR(CheckActivation(fields, config.family));
  BATON_RETURN_IF_ERROR(ParseDimensions(fields, config));
  switch (config.family) {
    case ModelFamily::kGemma:
      BATON_RETURN_IF_ERROR(ParseGemma(fields, config));
      break;
    case ModelFamily::kGemma2:
      BATON_RETURN_IF_ERROR(ParseGemma2(fields, config));
      break;
    case ModelFamily::kRecurrentGemma:
      BATON_RETURN_IF_ERROR(ParseRecurrentGemma(fields, options, config));
      break;
  }
  return config;
}

}  // namespace baton
