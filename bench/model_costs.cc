#include "bench/model_costs.h"

#include <algorithm>

#include "common/model/checkpoint.h"

namespace baton {
namespace {

double AttentionFlops(const ModelConfig& config, double visible_keys) {
  return 4.0 * static_cast<double>(config.QueryWidth()) * visible_keys;
}

double HeadFlops(const ModelConfig& config) {
  return 2.0 * static_cast<double>(config.vocab_size) * config.hidden_size;
}

double LinearFlops(const ModelConfig& config) { return 2.0 * static_cast<double>(NonEmbeddingParameters(config)); }

}  // namespace

int64_t NonEmbeddingParameters(const ModelConfig& config) {
  int64_t parameters = 0;
  for (const TensorSpec& spec : ExpectedTensors(config)) {
    int64_t elements = 1;
    for (const int64_t dimension : spec.shape) elements *= dimension;
    parameters += elements;
  }
  return parameters - config.vocab_size * config.hidden_size;
}

int64_t VisibleKeys(const ModelConfig& config, int64_t position) {
  int64_t keys = 0;
  for (const MixerKind mixer : config.mixers) {
    if (mixer == MixerKind::kGlobalAttention) keys += position + 1;
    if (mixer == MixerKind::kWindowAttention) keys += std::min(position + 1, config.visible_keys);
  }
  return keys;
}

double PrefillFlops(const ModelConfig& config, int64_t tokens) {
  double keys = 0;
  for (int64_t position = 0; position < tokens; ++position) keys += static_cast<double>(VisibleKeys(config, position));
  return static_cast<double>(tokens) * LinearFlops(config) + AttentionFlops(config, keys) + HeadFlops(config);
}

double DecodeFlops(const ModelConfig& config, int64_t position) {
  return LinearFlops(config) + AttentionFlops(config, static_cast<double>(VisibleKeys(config, position))) +
         HeadFlops(config);
}

int64_t StateReadBytes(const ModelConfig& config, int64_t position, int element_bytes) {
  const int64_t key_values = 2 * VisibleKeys(config, position) * config.KvWidth() * element_bytes;
  const int64_t recurrent_layers = std::count(config.mixers.begin(), config.mixers.end(), MixerKind::kRecurrent);
  constexpr int64_t kFloatBytes = 4;  // the RG-LRU vector, whatever the mode
  const int64_t per_channel = kFloatBytes + int64_t{config.conv_width - 1} * element_bytes;
  return key_values + recurrent_layers * config.lru_width * per_channel;
}

}  // namespace baton
