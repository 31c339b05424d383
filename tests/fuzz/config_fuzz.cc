// Feeds arbitrary text to the parsers of config.json and generation_config.json.
//
// Input: config.json, then optionally a zero byte and generation_config.json.
//
// Held: no crash; a config that is taken keeps the invariants that the rest of the code relies on, and the sizes of all
// its tensors fit int64; token ids of a generation config are inside the vocabulary.
#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "common/base/status_macros.h"
#include "common/model/checkpoint.h"
#include "common/model/model_config.h"

namespace baton {
namespace {

void CheckConfig(const ModelConfig& config) {
  BATON_CHECK(config.vocab_size > 0 && config.hidden_size > 0 && config.mlp_width > 0 && config.num_layers > 0);
  BATON_CHECK(config.num_kv_heads > 0 && config.num_heads % config.num_kv_heads == 0);
  BATON_CHECK(config.rotary_dim > 0 && config.rotary_dim % 2 == 0 && config.rotary_dim <= config.head_dim);
  BATON_CHECK(config.mixers.size() == static_cast<size_t>(config.num_layers));
  BATON_CHECK(config.attention_scale > 0 && config.rms_norm_eps > 0 && config.max_tokens > 0);
  for (MixerKind mixer : config.mixers) {
    if (mixer == MixerKind::kWindowAttention) BATON_CHECK(config.visible_keys > 0);
    if (mixer == MixerKind::kRecurrent)
      BATON_CHECK(config.conv_width > 1 && config.lru_width % config.gate_blocks == 0);
  }
  int64_t bytes = 0;
  for (const TensorSpec& spec : ExpectedTensors(config)) {
    int64_t tensor = 4;
    for (int64_t dimension : spec.shape) {
      BATON_CHECK(dimension > 0 && !__builtin_mul_overflow(tensor, dimension, &tensor));
    }
    BATON_CHECK(!__builtin_add_overflow(bytes, tensor, &bytes));
  }
}

void CheckGeneration(const GenerationConfig& generation) {
  BATON_CHECK(generation.bos_token_id >= 0 && generation.pad_token_id >= 0);
  for (int32_t id : generation.eos_token_ids) BATON_CHECK(id >= 0);
  BATON_CHECK(generation.do_sample >= -1 && generation.do_sample <= 1);
  BATON_CHECK(generation.top_p <= 1 && generation.max_new_tokens != 0);
}

}  // namespace
}  // namespace baton

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string bytes(reinterpret_cast<const char*>(data), size);
  const size_t separator = bytes.find('\0');
  const std::string config_text = bytes.substr(0, separator);
  const std::string generation_text = separator == std::string::npos ? "" : bytes.substr(separator + 1);
  for (const bool deepmind_window : {true, false}) {
    const auto config = baton::ParseModelConfig(config_text, "config.json", {.deepmind_window = deepmind_window});
    if (config.ok()) baton::CheckConfig(*config);
  }
  const auto generation = baton::ParseGenerationConfig(generation_text, config_text, "generation_config.json");
  if (generation.ok()) baton::CheckGeneration(*generation);
  return 0;
}
