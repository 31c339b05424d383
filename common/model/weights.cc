#include "common/model/weights.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <new>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/bytes.h"
#include "common/base/status_macros.h"
#include "common/compute/bf16.h"

namespace baton {
namespace {

// Elements converted at a time: one thread's buffer stays in its cache.
constexpr int64_t kConvertElements = 1 << 14;
constexpr int64_t kPageBytes = 4096;
constexpr int64_t kTouchPages = 256;

void StoreAs(WeightType type, absl::Span<const float> values, int64_t begin, std::byte* out) {
  if (type == WeightType::kF32) {
    std::copy(values.begin(), values.end(), reinterpret_cast<float*>(out) + begin);
    return;
  }
  auto* to = reinterpret_cast<uint16_t*>(out) + begin;
  std::transform(values.begin(), values.end(), to, FloatToBf16);
}

// Softplus without overflow: log(1 + exp(x)).
double Softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::abs(x))); }

class WeightLoader {
 public:
  WeightLoader(const Checkpoint& checkpoint, ComputeMode compute, ThreadPool& pool,
               const std::function<void(int64_t, int64_t)>& progress)
      : checkpoint_(checkpoint),
        config_(checkpoint.config()),
        type_(compute == ComputeMode::kF32 ? WeightType::kF32 : WeightType::kBf16),
        pool_(pool),
        progress_(progress) {}

  absl::StatusOr<ModelWeights> Load() {
    const bool griffin = config_.family == ModelFamily::kRecurrentGemma;
    BATON_ASSIGN_OR_RETURN(weights_.embedding,
                           Matrix("model.embed_tokens.weight", config_.vocab_size, config_.hidden_size));
    for (int i = 0; i < config_.num_layers; ++i) {
      const std::string layer = absl::StrCat("model.layers.", i);
      BATON_ASSIGN_OR_RETURN(LayerWeights loaded, griffin ? GriffinLayer(layer, config_.mixers[i]) : GemmaLayer(layer));
      weights_.layers.push_back(std::move(loaded));
    }
    BATON_ASSIGN_OR_RETURN(weights_.final_norm, Norm(griffin ? "model.final_norm.weight" : "model.norm.weight"));
    return std::move(weights_);
  }

 private:
  absl::StatusOr<LayerWeights> GemmaLayer(const std::string& layer) {
    LayerWeights weights;
    BATON_ASSIGN_OR_RETURN(weights.mixer_norm, Norm(layer + ".input_layernorm.weight"));
    BATON_ASSIGN_OR_RETURN(weights.attention, Attention(layer + ".self_attn"));
    // One name, two meanings: the norm before the MLP in Gemma 1, the norm of the attention's output in Gemma 2.
    BATON_ASSIGN_OR_RETURN(NormScale post_attention, Norm(layer + ".post_attention_layernorm.weight"));
    if (config_.post_norms) {
      weights.mixer_output_norm = std::move(post_attention);
      BATON_ASSIGN_OR_RETURN(weights.mlp_norm, Norm(layer + ".pre_feedforward_layernorm.weight"));
      BATON_ASSIGN_OR_RETURN(weights.mlp_output_norm, Norm(layer + ".post_feedforward_layernorm.weight"));
    } else {
      weights.mlp_norm = std::move(post_attention);
    }
    BATON_ASSIGN_OR_RETURN(weights.mlp, Mlp(layer + ".mlp"));
    return weights;
  }

  absl::StatusOr<LayerWeights> GriffinLayer(const std::string& layer, MixerKind mixer) {
    LayerWeights weights;
    BATON_ASSIGN_OR_RETURN(weights.mixer_norm, Norm(layer + ".temporal_pre_norm.weight"));
    if (mixer == MixerKind::kRecurrent) {
      BATON_ASSIGN_OR_RETURN(weights.recurrent, Recurrent(layer + ".temporal_block"));
    } else {
      BATON_ASSIGN_OR_RETURN(weights.attention, Attention(layer + ".temporal_block"));
    }
    BATON_ASSIGN_OR_RETURN(weights.mlp_norm, Norm(layer + ".channel_pre_norm.weight"));
    BATON_ASSIGN_OR_RETURN(weights.mlp, Mlp(layer + ".mlp_block"));
    return weights;
  }

  absl::StatusOr<AttentionWeights> Attention(const std::string& prefix) {
    const int64_t hidden = config_.hidden_size;
    AttentionWeights weights;
    BATON_ASSIGN_OR_RETURN(weights.q, Linear(prefix + ".q_proj", config_.QueryWidth(), hidden, false));
    BATON_ASSIGN_OR_RETURN(weights.k, Linear(prefix + ".k_proj", config_.KvWidth(), hidden, false));
    BATON_ASSIGN_OR_RETURN(weights.v, Linear(prefix + ".v_proj", config_.KvWidth(), hidden, false));
    BATON_ASSIGN_OR_RETURN(weights.o, Linear(prefix + ".o_proj", hidden, config_.QueryWidth(), config_.o_proj_bias));
    return weights;
  }

  absl::StatusOr<MlpWeights> Mlp(const std::string& prefix) {
    const int64_t hidden = config_.hidden_size;
    const int64_t width = config_.mlp_width;
    MlpWeights weights;
    BATON_ASSIGN_OR_RETURN(weights.gate, Linear(prefix + ".gate_proj", width, hidden, config_.mlp_bias));
    BATON_ASSIGN_OR_RETURN(weights.up, Linear(prefix + ".up_proj", width, hidden, config_.mlp_bias));
    BATON_ASSIGN_OR_RETURN(weights.down, Linear(prefix + ".down_proj", hidden, width, config_.mlp_bias));
    return weights;
  }

  absl::StatusOr<RecurrentWeights> Recurrent(const std::string& prefix) {
    const int64_t hidden = config_.hidden_size;
    const int64_t width = config_.lru_width;
    RecurrentWeights weights;
    BATON_ASSIGN_OR_RETURN(weights.linear_x, Linear(prefix + ".linear_x", width, hidden, true));
    BATON_ASSIGN_OR_RETURN(weights.linear_y, Linear(prefix + ".linear_y", width, hidden, true));
    BATON_ASSIGN_OR_RETURN(weights.linear_out, Linear(prefix + ".linear_out", hidden, width, true));

    const int64_t taps = config_.conv_width;
    BATON_ASSIGN_OR_RETURN(std::vector<float> conv, Vector(prefix + ".conv_1d.weight", {width, 1, taps}));
    weights.conv_taps.resize(conv.size());
    for (int64_t c = 0; c < width; ++c) {
      for (int64_t tap = 0; tap < taps; ++tap) weights.conv_taps[tap * width + c] = conv[c * taps + tap];
    }
    BATON_ASSIGN_OR_RETURN(weights.conv_bias, Vector(prefix + ".conv_1d.bias", {width}));

    BATON_ASSIGN_OR_RETURN(weights.decay, Vector(prefix + ".rg_lru.recurrent_param", {width}));
    for (float& value : weights.decay) value = static_cast<float>(-8.0 * Softplus(value));

    BATON_ASSIGN_OR_RETURN(weights.recurrence_gates, GateBlocks(prefix + ".rg_lru.recurrent_gate"));
    BATON_ASSIGN_OR_RETURN(weights.input_gates, GateBlocks(prefix + ".rg_lru.input_gate"));
    return weights;
  }

  absl::StatusOr<std::vector<LinearLayer>> GateBlocks(const std::string& prefix) {
    const int64_t blocks = config_.gate_blocks;
    const int64_t block = config_.lru_width / blocks;
    BATON_ASSIGN_OR_RETURN(std::vector<float> in_out, Vector(prefix + "_weight", {blocks, block, block}));
    BATON_ASSIGN_OR_RETURN(std::vector<float> bias, Vector(prefix + "_bias", {blocks, block}));
    std::vector<LinearLayer> gates(blocks);
    std::vector<float> out_in(block * block);
    for (int64_t b = 0; b < blocks; ++b) {
      const float* source = in_out.data() + b * block * block;
      for (int64_t in = 0; in < block; ++in) {
        for (int64_t out = 0; out < block; ++out) out_in[out * block + in] = source[in * block + out];
      }
      BATON_ASSIGN_OR_RETURN(std::byte * data, Allocate(block * block));
      StoreAs(type_, out_in, 0, data);
      gates[b].matrix = {data, type_, block, block};
      gates[b].bias.assign(bias.begin() + b * block, bias.begin() + (b + 1) * block);
    }
    return gates;
  }

  absl::StatusOr<LinearLayer> Linear(const std::string& prefix, int64_t outputs, int64_t inputs, bool bias) {
    LinearLayer layer;
    BATON_ASSIGN_OR_RETURN(layer.matrix, Matrix(prefix + ".weight", outputs, inputs));
    if (bias) {
      BATON_ASSIGN_OR_RETURN(layer.bias, Vector(prefix + ".bias", {outputs}));
    }
    return layer;
  }

  absl::StatusOr<NormScale> Norm(const std::string& name) {
    BATON_ASSIGN_OR_RETURN(NormScale scale, Vector(name, {config_.hidden_size}));
    for (float& value : scale) value += 1.0f;
    return scale;
  }

  absl::StatusOr<std::vector<float>> Vector(const std::string& name, absl::Span<const int64_t> shape) {
    BATON_ASSIGN_OR_RETURN(TensorView tensor, checkpoint_.Find(name, shape));
    std::vector<float> values(tensor.elements());
    tensor.ToFloat(0, absl::MakeSpan(values));
    weights_.bytes += tensor.elements() * static_cast<int64_t>(sizeof(float));
    Done(tensor.bytes);
    return values;
  }

  absl::StatusOr<WeightMatrix> Matrix(const std::string& name, int64_t outputs, int64_t inputs) {
    BATON_ASSIGN_OR_RETURN(TensorView tensor, checkpoint_.Find(name, {outputs, inputs}));
    const std::byte* data = tensor.data;
    if (UsableInPlace(tensor)) {
      Touch(tensor);
      weights_.bytes += tensor.bytes;
    } else {
      BATON_ASSIGN_OR_RETURN(std::byte * converted, Allocate(tensor.elements()));
      Convert(tensor, converted);
      data = converted;
    }
    Done(tensor.bytes);
    return WeightMatrix{data, type_, outputs, inputs};
  }

  bool UsableInPlace(const TensorView& tensor) const {
    const auto address = reinterpret_cast<uintptr_t>(tensor.data);
    if (type_ == WeightType::kF32) return tensor.type == TensorType::kF32 && address % alignof(float) == 0;
    return tensor.type == TensorType::kBF16 && address % alignof(uint16_t) == 0;
  }

  // Reads a byte of every page.
  void Touch(const TensorView& tensor) {
    std::atomic<uint32_t> sum{0};
    pool_.ParallelFor((tensor.bytes + kPageBytes - 1) / kPageBytes, kTouchPages, [&](int64_t begin, int64_t end) {
      uint32_t bytes = 0;
      for (int64_t page = begin; page < end; ++page) bytes += static_cast<uint32_t>(tensor.data[page * kPageBytes]);
      sum.fetch_add(bytes, std::memory_order_relaxed);
    });
  }

  void Convert(const TensorView& tensor, std::byte* out) {
    const int64_t blocks = (tensor.elements() + kConvertElements - 1) / kConvertElements;
    pool_.ParallelFor(blocks, 1, [&](int64_t first, int64_t last) {
      std::vector<float> buffer(kConvertElements);
      for (int64_t block = first; block < last; ++block) {
        const int64_t begin = block * kConvertElements;
        const int64_t count = std::min(kConvertElements, tensor.elements() - begin);
        const absl::Span<float> values(buffer.data(), count);
        tensor.ToFloat(begin, values);
        StoreAs(type_, values, begin, out);
      }
    });
  }

  absl::StatusOr<std::byte*> Allocate(int64_t elements) {
    const int64_t bytes = elements * (type_ == WeightType::kF32 ? 4 : 2);
    std::byte* data = new (std::nothrow) std::byte[bytes];
    if (data == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat(checkpoint_.directory(), ": no memory for ", FormatBytes(bytes),
                                                       " of converted weights; a BF16 checkpoint in bf16 mode is used "
                                                       "in place"));
    }
    weights_.converted.emplace_back(data);
    weights_.bytes += bytes;
    return data;
  }

  void Done(int64_t bytes) {
    done_ += bytes;
    if (progress_) progress_(done_, checkpoint_.tensor_bytes());
  }

  const Checkpoint& checkpoint_;
  const ModelConfig& config_;
  const WeightType type_;
  ThreadPool& pool_;
  const std::function<void(int64_t, int64_t)>& progress_;
  ModelWeights weights_;
  int64_t done_ = 0;
};

}  // namespace

absl::StatusOr<ModelWeights> LoadWeights(const Checkpoint& checkpoint, ComputeMode compute, ThreadPool& pool,
                                         const std::function<void(int64_t, int64_t)>& progress) {
  return WeightLoader(checkpoint, compute, pool, progress).Load();
}

}  // namespace baton
