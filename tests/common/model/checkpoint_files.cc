#include "tests/common/model/checkpoint_files.h"

#include <cstring>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace baton {

using nlohmann::json;

json TinyConfig(ModelFamily family) {
  json config = {
      {"model_type", std::string(FamilyName(family))},
      {"vocab_size", 32},
      {"hidden_size", 8},
      {"intermediate_size", 12},
      {"num_hidden_layers", 4},
      {"num_attention_heads", 2},
      {"num_key_value_heads", 1},
      {"head_dim", 8},
      {"hidden_activation", "gelu_pytorch_tanh"},
      {"rms_norm_eps", 1e-6},
      {"rope_theta", 10000.0},
      {"bos_token_id", 2},
      {"eos_token_id", 1},
      {"pad_token_id", 0},
  };
  if (family == ModelFamily::kGemma) {
    config["max_position_embeddings"] = 64;
  } else if (family == ModelFamily::kGemma2) {
    config["max_position_embeddings"] = 64;
    config["sliding_window"] = 16;
    config["query_pre_attn_scalar"] = 4;
    config["attn_logit_softcapping"] = 50.0;
    config["final_logit_softcapping"] = 30.0;
  } else {
    config["block_types"] = {"recurrent", "recurrent", "attention"};
    config["attention_window_size"] = 16;
    config["conv1d_width"] = 4;
    config["logits_soft_cap"] = 30.0;
    config["lru_width"] = 6;
    config["partial_rotary_factor"] = 0.5;
  }
  return config;
}

std::string FloatBytes(const std::vector<float>& values) {
  std::string bytes(values.size() * sizeof(float), '\0');
  std::memcpy(bytes.data(), values.data(), bytes.size());
  return bytes;
}

std::vector<FileTensor> TinyTensors(const json& config) {
  const auto parsed = ParseModelConfig(config.dump(), "TinyTensors");
  BATON_CHECK(parsed.ok());
  std::vector<FileTensor> tensors;
  for (const TensorSpec& spec : ExpectedTensors(*parsed)) {
    size_t elements = 1;
    for (int64_t dimension : spec.shape) elements *= static_cast<size_t>(dimension);
    std::vector<float> values(elements);
    for (size_t i = 0; i < elements; ++i) values[i] = static_cast<float>(i) / 64 + static_cast<float>(tensors.size());
    tensors.push_back({spec.name, "F32", spec.shape, FloatBytes(values)});
  }
  return tensors;
}

std::string SafetensorsBytes(absl::string_view header, absl::string_view data) {
  std::string file(8, '\0');
  for (int i = 0; i < 8; ++i) file[i] = static_cast<char>(header.size() >> (8 * i));
  return absl::StrCat(file, header, data);
}

std::string SafetensorsBytes(const std::vector<FileTensor>& tensors) {
  json header = json::object();
  std::string data;
  for (const FileTensor& tensor : tensors) {
    const size_t begin = data.size();
    data += tensor.bytes;
    header[tensor.name] = {{"dtype", tensor.dtype}, {"shape", tensor.shape}, {"data_offsets", {begin, data.size()}}};
  }
  return SafetensorsBytes(header.dump(), data);
}

void WriteCheckpoint(const TemporaryDirectory& directory, const json& config, const std::vector<FileTensor>& tensors) {
  directory.Write("config.json", config.dump());
  directory.Write("model.safetensors", SafetensorsBytes(tensors));
}

}  // namespace baton
