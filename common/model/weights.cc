#include "common/model/weights.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

// Softplus without overflow: log(1 + exp(x)).
double Softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

class WeightPlanner {
 public:
  WeightPlanner(const Checkpoint& checkpoint, WeightPrecision precision)
      : checkpoint_(checkpoint), config_(checkpoint.config()), precision_(precision) {}

  absl::StatusOr<WeightPlan> Plan() {
    const bool griffin = config_.family == ModelFamily::kRecurrentGemma;
    plan_.weights = std::make_unique<ModelWeights>();
    ModelWeights& weights = *plan_.weights;
    BATON_RETURN_IF_ERROR(
        Matrix("model.embed_tokens.weight", config_.vocab_size, config_.hidden_size, &weights.embedding));
    weights.layers.resize(config_.num_layers);
    for (int i = 0; i < config_.num_layers; ++i) {
      const std::string layer = absl::StrCat("model.layers.", i);
      BATON_RETURN_IF_ERROR(griffin ? GriffinLayer(layer, config_.mixers[i], &weights.layers[i])
                                    : GemmaLayer(layer, &weights.layers[i]));
    }
    BATON_ASSIGN_OR_RETURN(weights.final_norm, Norm(griffin ? "model.final_norm.weight" : "model.norm.weight"));
    return std::move(plan_);
  }

 private:
  // The planned matrices point to their places: those are filled where they stay.

  absl::Status GemmaLayer(const std::string& layer, LayerWeights* out) {
    LayerWeights& weights = *out;
    BATON_ASSIGN_OR_RETURN(weights.mixer_norm, Norm(layer + ".input_layernorm.weight"));
    BATON_RETURN_IF_ERROR(Attention(layer + ".self_attn", &weights.attention));
    // One name, two meanings: the norm before the MLP in Gemma 1, the norm of the attention's output in Gemma 2.
    BATON_ASSIGN_OR_RETURN(NormScale post_attention, Norm(layer + ".post_attention_layernorm.weight"));
    if (config_.post_norms) {
      weights.mixer_output_norm = std::move(post_attention);
      BATON_ASSIGN_OR_RETURN(weights.mlp_norm, Norm(layer + ".pre_feedforward_layernorm.weight"));
      BATON_ASSIGN_OR_RETURN(weights.mlp_output_norm, Norm(layer + ".post_feedforward_layernorm.weight"));
    } else {
      weights.mlp_norm = std::move(post_attention);
    }
    return Mlp(layer + ".mlp", &weights.mlp);
  }

  absl::Status GriffinLayer(const std::string& layer, MixerKind mixer, LayerWeights* out) {
    LayerWeights& weights = *out;
    BATON_ASSIGN_OR_RETURN(weights.mixer_norm, Norm(layer + ".temporal_pre_norm.weight"));
    if (mixer == MixerKind::kRecurrent) {
      BATON_RETURN_IF_ERROR(Recurrent(layer + ".temporal_block", &weights.recurrent));
    } else {
      BATON_RETURN_IF_ERROR(Attention(layer + ".temporal_block", &weights.attention));
    }
    BATON_ASSIGN_OR_RETURN(weights.mlp_norm, Norm(layer + ".channel_pre_norm.weight"));
    return Mlp(layer + ".mlp_block", &weights.mlp);
  }

  absl::Status Attention(const std::string& prefix, AttentionWeights* out) {
    const int64_t hidden = config_.hidden_size;
    const int64_t query = config_.QueryWidth();
    const int64_t kv = config_.KvWidth();
    BATON_RETURN_IF_ERROR(Linear(prefix + ".q_proj", query, hidden, false, &out->q));
    BATON_RETURN_IF_ERROR(Linear(prefix + ".k_proj", kv, hidden, false, &out->k));
    BATON_RETURN_IF_ERROR(Linear(prefix + ".v_proj", kv, hidden, false, &out->v));
    return Linear(prefix + ".o_proj", hidden, query, config_.o_proj_bias, &out->o);
  }

  absl::Status Mlp(const std::string& prefix, MlpWeights* out) {
    const int64_t hidden = config_.hidden_size;
    const int64_t width = config_.mlp_width;
    BATON_RETURN_IF_ERROR(Linear(prefix + ".gate_proj", width, hidden, config_.mlp_bias, &out->gate));
    BATON_RETURN_IF_ERROR(Linear(prefix + ".up_proj", width, hidden, config_.mlp_bias, &out->up));
    return Linear(prefix + ".down_proj", hidden, width, config_.mlp_bias, &out->down);
  }

  absl::Status Recurrent(const std::string& prefix, RecurrentWeights* out) {
    const int64_t hidden = config_.hidden_size;
    const int64_t width = config_.lru_width;
    RecurrentWeights& weights = *out;
    BATON_RETURN_IF_ERROR(Linear(prefix + ".linear_x", width, hidden, true, &weights.linear_x));
    BATON_RETURN_IF_ERROR(Linear(prefix + ".linear_y", width, hidden, true, &weights.linear_y));
    BATON_RETURN_IF_ERROR(Linear(prefix + ".linear_out", hidden, width, true, &weights.linear_out));

    const int64_t taps = config_.conv_width;
    BATON_ASSIGN_OR_RETURN(std::vector<float> conv, Vector(prefix + ".conv_1d.weight", {width, 1, taps}));
    weights.conv_taps.resize(conv.size());
    for (int64_t c = 0; c < width; ++c) {
      for (int64_t tap = 0; tap < taps; ++tap) weights.conv_taps[tap * width + c] = conv[c * taps + tap];
    }
    BATON_ASSIGN_OR_RETURN(weights.conv_bias, Vector(prefix + ".conv_1d.bias", {width}));

    BATON_ASSIGN_OR_RETURN(weights.decay, Vector(prefix + ".rg_lru.recurrent_param", {width}));
    for (float& value : weights.decay) value = static_cast<float>(-8.0 * Softplus(value));

    BATON_RETURN_IF_ERROR(GateBlocks(prefix + ".rg_lru.recurrent_gate", &weights.recurrence_gates));
    return GateBlocks(prefix + ".rg_lru.input_gate", &weights.input_gates);
  }

  absl::Status GateBlocks(const std::string& prefix, std::vector<LinearLayer>* out) {
    const int64_t blocks = config_.gate_blocks;
    const int64_t block = config_.lru_width / blocks;
    const std::string name = prefix + "_weight";
    BATON_ASSIGN_OR_RETURN(const TensorView tensor, checkpoint_.Find(name, {blocks, block, block}));
    BATON_ASSIGN_OR_RETURN(const std::vector<float> bias, Vector(prefix + "_bias", {blocks, block}));
    out->resize(blocks);
    for (int64_t b = 0; b < blocks; ++b) {
      LinearLayer& gate = (*out)[b];
      gate.bias.assign(bias.begin() + b * block, bias.begin() + (b + 1) * block);
      gate.matrix = {nullptr, precision_, block, block};
      Add({.name = absl::StrCat(name, "[", b, "]"),
           .tensor = tensor,
           .first = b * block * block,
           .transposed = true,
           .matrix = &gate.matrix});
    }
    return absl::OkStatus();
  }

  absl::Status Linear(const std::string& prefix, int64_t outputs, int64_t inputs, bool bias, LinearLayer* out) {
    if (bias) {
      BATON_ASSIGN_OR_RETURN(out->bias, Vector(prefix + ".bias", {outputs}));
    }
    return Matrix(prefix + ".weight", outputs, inputs, &out->matrix);
  }

  absl::StatusOr<NormScale> Norm(const std::string& name) {
    BATON_ASSIGN_OR_RETURN(NormScale scale, Vector(name, {config_.hidden_size}));
    for (float& value : scale) value += 1.0f;
    return scale;
  }

  absl::StatusOr<std::vector<float>> Vector(const std::string& name, absl::Span<const int64_t> shape) {
    BATON_ASSIGN_OR_RETURN(const TensorView tensor, checkpoint_.Find(name, shape));
    std::vector<float> values(tensor.elements());
    tensor.ToFloat(0, absl::MakeSpan(values));
    plan_.weights->bytes += tensor.elements() * static_cast<int64_t>(sizeof(float));
    return values;
  }

  absl::Status Matrix(const std::string& name, int64_t outputs, int64_t inputs, PackedMatrix* out) {
    BATON_ASSIGN_OR_RETURN(const TensorView tensor, checkpoint_.Find(name, {outputs, inputs}));
    *out = {nullptr, precision_, outputs, inputs};
    if (UsableInPlace(tensor)) {
      out->data = tensor.data;
      plan_.weights->bytes += tensor.bytes;
      plan_.in_place.push_back(tensor);
    } else {
      Add({.name = name, .tensor = tensor, .matrix = out});
    }
    return absl::OkStatus();
  }

  bool UsableInPlace(const TensorView& tensor) const {
    return precision_ == WeightPrecision::kF32 && tensor.type == TensorType::kF32 &&
           reinterpret_cast<uintptr_t>(tensor.data) % alignof(float) == 0;
  }

  void Add(MatrixSource source) {
    plan_.weights->bytes += source.packed_bytes();
    plan_.sources.push_back(std::move(source));
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const WeightPrecision precision_;
  WeightPlan plan_;
};

}  // namespace

absl::StatusOr<WeightPlan> PlanWeights(const Checkpoint& checkpoint, WeightPrecision precision) {
  return WeightPlanner(checkpoint, precision).Plan();
}

absl::StatusOr<std::unique_ptr<ModelWeights>> LoadWeights(const Checkpoint& checkpoint, WeightPlan plan,
                                                          const std::string& cache_dir, ThreadPool& pool,
                                                          const LoadObserver& observer) {
  // What planning and hashing read; it is not needed again, or comes back below.
  checkpoint.DropTensorPages();
  BATON_ASSIGN_OR_RETURN(plan.weights->packed, PackWeights(checkpoint, plan.sources, cache_dir, pool, observer));
  for (const TensorView& tensor : plan.in_place) PopulateWeights(tensor.data, tensor.bytes, pool);
  return std::move(plan.weights);
}

}  // namespace baton
