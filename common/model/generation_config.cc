#include <algorithm>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/model/json_object.h"
#include "common/model/model_config.h"

namespace baton {
namespace {

using nlohmann::json;

absl::Status ReadTokenId(const JsonFields& fields, absl::string_view key, int64_t vocab_size, int32_t& id) {
  if (!fields.Has(key)) return absl::OkStatus();
  BATON_ASSIGN_OR_RETURN(int64_t value, fields.Integer(key, 0, vocab_size - 1));
  id = static_cast<int32_t>(value);
  return absl::OkStatus();
}

// One id or a list of ids.
absl::Status ReadStopTokens(const JsonFields& fields, int64_t vocab_size, std::vector<int32_t>& ids) {
  constexpr absl::string_view kKey = "eos_token_id";
  const json* value = fields.Get(kKey);
  if (value == nullptr) return absl::OkStatus();
  const json list = value->is_array() ? *value : json::array({*value});
  std::vector<int32_t> found;
  for (const json& entry : list) {
    const json wrapped = {{kKey.data(), entry}};
    int32_t id = -1;
    BATON_RETURN_IF_ERROR(ReadTokenId(JsonFields(wrapped, fields.path()), kKey, vocab_size, id));
    if (id < 0) return fields.Error(kKey, "holds null, expected token ids");
    if (std::find(found.begin(), found.end(), id) == found.end()) found.push_back(id);
  }
  ids = std::move(found);
  return absl::OkStatus();
}

absl::Status ReadTokens(const JsonFields& fields, int64_t vocab_size, GenerationConfig& generation) {
  BATON_RETURN_IF_ERROR(ReadTokenId(fields, "bos_token_id", vocab_size, generation.bos_token_id));
  BATON_RETURN_IF_ERROR(ReadTokenId(fields, "pad_token_id", vocab_size, generation.pad_token_id));
  return ReadStopTokens(fields, vocab_size, generation.eos_token_ids);
}

absl::Status ReadSampling(const JsonFields& fields, GenerationConfig& generation) {
  struct NumberField {
    absl::string_view key;
    double low;
    double high;
    float* value;
  };
  const NumberField numbers[] = {
      {"temperature", 0.0, 100.0, &generation.temperature},
      {"top_p", 0.0, 1.0, &generation.top_p},
      {"repetition_penalty", 1e-3, 100.0, &generation.repetition_penalty},
  };
  for (const NumberField& field : numbers) {
    if (!fields.Has(field.key)) continue;
    BATON_ASSIGN_OR_RETURN(double value, fields.Number(field.key, field.low, field.high));
    *field.value = static_cast<float>(value);
  }
  if (fields.Has("top_k")) {
    BATON_ASSIGN_OR_RETURN(int64_t top_k, fields.Integer("top_k", 0, INT32_MAX));
    generation.top_k = static_cast<int32_t>(top_k);
  }
  if (fields.Has("max_new_tokens")) {
    BATON_ASSIGN_OR_RETURN(int64_t max_new_tokens, fields.Integer("max_new_tokens", 1, INT32_MAX));
    generation.max_new_tokens = static_cast<int32_t>(max_new_tokens);
  }
  if (fields.Has("do_sample")) {
    BATON_ASSIGN_OR_RETURN(bool do_sample, fields.Boolean("do_sample"));
    generation.do_sample = do_sample ? 1 : 0;
  }
  return absl::OkStatus();
}

// config.json beside generation_config.json.
std::string ConfigPathBeside(absl::string_view path) {
  const size_t slash = path.rfind('/');
  return absl::StrCat(slash == absl::string_view::npos ? "" : path.substr(0, slash + 1), "config.json");
}

}  // namespace

absl::StatusOr<GenerationConfig> ParseGenerationConfig(absl::string_view generation_text, absl::string_view config_text,
                                                       absl::string_view path) {
  const std::string config_path = ConfigPathBeside(path);
  BATON_ASSIGN_OR_RETURN(const json config, ParseJsonObject(config_text, config_path));
  const JsonFields config_fields(config, config_path);
  BATON_ASSIGN_OR_RETURN(int64_t vocab_size, config_fields.Integer("vocab_size", 4, INT32_MAX));
  GenerationConfig generation;
  BATON_RETURN_IF_ERROR(ReadTokens(config_fields, vocab_size, generation));
  if (generation_text.empty()) return generation;

  BATON_ASSIGN_OR_RETURN(const json object, ParseJsonObject(generation_text, path));
  const JsonFields fields(object, path);
  BATON_RETURN_IF_ERROR(ReadTokens(fields, vocab_size, generation));
  BATON_RETURN_IF_ERROR(ReadSampling(fields, generation));
  return generation;
}

}  // namespace baton
