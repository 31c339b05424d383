#include "common/model/model_config.h"

#include <cmath>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/model/synth.h"
#include "tests/common/model/checkpoint_files.h"

namespace baton {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr ModelFamily kGemma = ModelFamily::kGemma;
constexpr ModelFamily kGemma2 = ModelFamily::kGemma2;
constexpr ModelFamily kRecurrentGemma = ModelFamily::kRecurrentGemma;
constexpr MixerKind kGlobal = MixerKind::kGlobalAttention;
constexpr MixerKind kWindow = MixerKind::kWindowAttention;
constexpr MixerKind kRecurrent = MixerKind::kRecurrent;

absl::StatusOr<ModelConfig> Parse(const json& config, const ConfigOptions& options = {}) {
  return ParseModelConfig(config.dump(), "m/config.json", options);
}

void ExpectRefused(const json& config, absl::StatusCode code, const std::string& message) {
  const auto parsed = Parse(config);
  ASSERT_EQ(parsed.status().code(), code) << parsed.status();
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("m/config.json"));
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(message));
}

ModelConfig Preset(absl::string_view name) {
  for (const SynthPreset& preset : SynthPresets()) {
    if (preset.name == name) return *ParseModelConfig(preset.config_text, preset.name);
  }
  ADD_FAILURE() << "no preset " << name;
  return {};
}

TEST(ModelConfigTest, Gemma1) {
  const ModelConfig config = Preset("gemma-7b");
  EXPECT_EQ(config.family, kGemma);
  EXPECT_EQ(config.vocab_size, 256000);
  EXPECT_EQ(config.hidden_size, 3072);
  EXPECT_EQ(config.mlp_width, 24576);
  EXPECT_EQ(config.QueryWidth(), 4096);
  EXPECT_EQ(config.KvWidth(), 4096);
  EXPECT_EQ(config.mixers, std::vector<MixerKind>(28, kGlobal));
  EXPECT_EQ(config.attention_scale, 0.0625f);
  EXPECT_EQ(config.attention_soft_cap, 0);
  EXPECT_EQ(config.final_soft_cap, 0);
  EXPECT_EQ(config.rotary_dim, 256);
  EXPECT_EQ(config.max_tokens, 8192);
  EXPECT_FALSE(config.post_norms);
  EXPECT_FALSE(config.mlp_bias);
  EXPECT_FALSE(config.always_round_embedding_scale);
}

TEST(ModelConfigTest, Gemma2) {
  const ModelConfig config = Preset("gemma-2-27b");
  EXPECT_EQ(config.family, kGemma2);
  EXPECT_EQ(config.head_dim, 128);
  EXPECT_EQ(config.rotary_dim, 128);
  EXPECT_FLOAT_EQ(config.attention_scale, 1.0f / 12);  // 144^-0.5, not head_dim^-0.5
  EXPECT_EQ(config.attention_soft_cap, 50);
  EXPECT_EQ(config.final_soft_cap, 30);
  EXPECT_EQ(config.visible_keys, 4096);
  EXPECT_TRUE(config.post_norms);
  ASSERT_EQ(config.mixers.size(), 46u);
  EXPECT_EQ(config.mixers[0], kWindow);
  EXPECT_EQ(config.mixers[1], kGlobal);
  EXPECT_EQ(config.mixers[45], kGlobal);
}

TEST(ModelConfigTest, RecurrentGemma) {
  const ModelConfig config = Preset("recurrentgemma-2b");
  EXPECT_EQ(config.family, kRecurrentGemma);
  EXPECT_EQ(config.mlp_width, 7680);  // half of the file's number
  EXPECT_EQ(config.lru_width, 2560);
  EXPECT_EQ(config.conv_width, 4);
  EXPECT_EQ(config.gate_blocks, 10);
  EXPECT_EQ(config.rotary_dim, 128);
  EXPECT_EQ(config.attention_scale, 0.0625f);
  EXPECT_EQ(config.attention_soft_cap, 0);
  EXPECT_EQ(config.final_soft_cap, 30);
  EXPECT_EQ(config.visible_keys, 2049);
  EXPECT_EQ(config.max_tokens, kRecurrentGemmaMaxTokens);
  EXPECT_TRUE(config.mlp_bias);
  EXPECT_TRUE(config.o_proj_bias);
  EXPECT_TRUE(config.always_round_embedding_scale);
  ASSERT_EQ(config.mixers.size(), 26u);
  for (int i = 0; i < 26; ++i) EXPECT_EQ(config.mixers[i], i % 3 == 2 ? kWindow : kRecurrent) << i;
}

TEST(ModelConfigTest, RecurrentGemmaWindowFollowsTheOption) {
  const json config = TinyConfig(kRecurrentGemma);
  EXPECT_EQ(Parse(config)->visible_keys, 17);
  EXPECT_EQ(Parse(config, {.deepmind_window = false})->visible_keys, 16);
}

TEST(ModelConfigTest, BlockTypesUnderEitherNameOrNone) {
  json config = TinyConfig(kRecurrentGemma);
  config["block_types"] = {"attention", "recurrent"};
  EXPECT_THAT(Parse(config)->mixers, ElementsAre(kWindow, kRecurrent, kWindow, kRecurrent));
  config["_block_types"] = config["block_types"];
  EXPECT_TRUE(Parse(config).ok());
  config.erase("block_types");
  EXPECT_THAT(Parse(config)->mixers, ElementsAre(kWindow, kRecurrent, kWindow, kRecurrent));
  config.erase("_block_types");
  EXPECT_THAT(Parse(config)->mixers, ElementsAre(kRecurrent, kRecurrent, kWindow, kRecurrent));
}

TEST(ModelConfigTest, RopeInsideRopeParameters) {
  for (const ModelFamily family : {kGemma, kGemma2, kRecurrentGemma}) {
    json config = TinyConfig(family);
    config.erase("rope_theta");
    config["rope_parameters"] = {{"rope_type", "default"}, {"rope_theta", 500.0}};
    ASSERT_TRUE(Parse(config).ok()) << Parse(config).status();
    EXPECT_EQ(Parse(config)->rope_theta, 500.0);
    config["rope_theta"] = 500.0;
    EXPECT_TRUE(Parse(config).ok());
  }
  json config = TinyConfig(kRecurrentGemma);
  config.erase("partial_rotary_factor");
  config["rope_parameters"] = {{"partial_rotary_factor", 0.25}};
  EXPECT_EQ(Parse(config)->rotary_dim, 2);
}

TEST(ModelConfigTest, ExplicitLayerTypesGoBeforeAlternation) {
  json config = TinyConfig(kGemma2);
  config["layer_types"] = {"full_attention", "full_attention", "sliding_attention", "full_attention"};
  EXPECT_THAT(Parse(config)->mixers, ElementsAre(kGlobal, kGlobal, kWindow, kGlobal));
}

TEST(ModelConfigTest, NullSoftCapIsNone) {
  json config = TinyConfig(kGemma2);
  config["attn_logit_softcapping"] = nullptr;
  config["final_logit_softcapping"] = nullptr;
  ASSERT_TRUE(Parse(config).ok());
  EXPECT_EQ(Parse(config)->attention_soft_cap, 0);
  EXPECT_EQ(Parse(config)->final_soft_cap, 0);
}

TEST(ModelConfigTest, Gemma1HiddenActMeansTanhWhateverItSays) {
  json config = TinyConfig(kGemma);
  config["hidden_act"] = "gelu";
  config["hidden_activation"] = nullptr;
  EXPECT_TRUE(Parse(config).ok());
  config.erase("hidden_activation");
  EXPECT_TRUE(Parse(config).ok());
  config["hidden_activation"] = "gelu";
  ExpectRefused(config, absl::StatusCode::kUnimplemented, "hidden_activation");
}

TEST(ModelConfigTest, TiedUnlessTheFileSaysOtherwise) {
  json config = TinyConfig(kGemma);
  EXPECT_TRUE(Parse(config)->tied_embeddings);
  config["tie_word_embeddings"] = false;
  EXPECT_FALSE(Parse(config)->tied_embeddings);
}

TEST(ModelConfigTest, EveryFieldThatMattersIsRequired) {
  const std::vector<std::string> optional = {"bos_token_id", "eos_token_id", "pad_token_id", "block_types"};
  for (const ModelFamily family : {kGemma, kGemma2, kRecurrentGemma}) {
    const json config = TinyConfig(family);
    ASSERT_TRUE(Parse(config).ok()) << Parse(config).status();
    for (const auto& [key, value] : config.items()) {
      if (std::find(optional.begin(), optional.end(), key) != optional.end()) continue;
      if (family == kGemma && key == "hidden_activation") continue;
      json without = config;
      without.erase(key);
      ExpectRefused(without, absl::StatusCode::kInvalidArgument, key + " is missing");
    }
  }
}

TEST(ModelConfigTest, NumbersMustBeNumbersInRange) {
  for (const ModelFamily family : {kGemma, kGemma2, kRecurrentGemma}) {
    const json config = TinyConfig(family);
    for (const auto& [key, value] : config.items()) {
      if (!value.is_number() || key.ends_with("token_id")) continue;
      const std::vector<json> wrong = {"8", true,  json::array({8}), json::object(), -1,
                                       0,   1e300, INT64_MIN,        UINT64_MAX};
      for (const json& bad : wrong) {
        json bent = config;
        bent[key] = bad;
        const auto parsed = Parse(bent);
        ASSERT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << key << " = " << bad;
        const std::string message(parsed.status().message());
        // A zero rotary factor is told by what it makes of head_dim.
        EXPECT_THAT(message, testing::AnyOf(HasSubstr(key), HasSubstr("head_dim"))) << bad;
      }
    }
  }
}

struct Bent {
  std::string what;
  ModelFamily family;
  std::string patch;  // merged into the tiny config (RFC 7396)
  absl::StatusCode code;
  std::string message;
};

void PrintTo(const Bent& bent, std::ostream* out) { *out << bent.what; }

class BentConfigTest : public testing::TestWithParam<Bent> {};

TEST_P(BentConfigTest, IsRefusedByField) {
  json config = TinyConfig(GetParam().family);
  config.merge_patch(json::parse(GetParam().patch));
  ExpectRefused(config, GetParam().code, GetParam().message);
}

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kUnsupported = absl::StatusCode::kUnimplemented;

INSTANTIATE_TEST_SUITE_P(
    Table, BentConfigTest,
    testing::Values(
        Bent{"Llama", kGemma2, R"({"model_type":"llama"})", kUnsupported,
             "model_type is \"llama\", which Baton does not serve; it serves gemma, gemma2 and recurrent_gemma"},
        Bent{"ModelTypeIsNumber", kGemma2, R"({"model_type":2})", kInvalid, "model_type is a number"},
        Bent{"Classifier", kGemma2, R"({"architectures":["Gemma2ForSequenceClassification"]})", kUnsupported,
             "Baton serves Gemma2ForCausalLM"},
        Bent{"ArchitecturesIsText", kGemma2, R"({"architectures":"Gemma2ForCausalLM"})", kInvalid, "not a list"},
        Bent{"ArchitectureOfAnotherFamily", kGemma2, R"({"architectures":["GemmaForCausalLM"]})", kUnsupported,
             "architectures"},
        Bent{"AttentionBias", kGemma, R"({"attention_bias":true})", kUnsupported, "attention_bias"},
        Bent{"AttentionBiasIsNumber", kGemma, R"({"attention_bias":0})", kInvalid, "expected true or false"},
        Bent{"RopeScaling", kGemma, R"({"rope_scaling":{"type":"linear","factor":2}})", kUnsupported, "rope_scaling"},
        Bent{"RopeType", kGemma, R"({"rope_parameters":{"rope_type":"yarn"}})", kUnsupported, "yarn"},
        Bent{"RopeParametersIsNumber", kGemma, R"({"rope_parameters":1})", kInvalid,
             "rope_parameters is not an object"},
        Bent{"TwoThetas", kGemma, R"({"rope_parameters":{"rope_theta":5}})", kInvalid,
             "rope_theta is 10000, but 5 inside rope_parameters"},
        Bent{"Quantized", kGemma, R"({"quantization_config":{"quant_method":"awq"}})", kUnsupported,
             "quantization_config"},
        Bent{"Silu", kGemma2, R"({"hidden_activation":"silu"})", kUnsupported, "hidden_activation is \"silu\""},
        Bent{"HiddenActCounts", kGemma2, R"({"hidden_activation":null,"hidden_act":"gelu"})", kUnsupported,
             "hidden_act is \"gelu\""},
        Bent{"NoActivation", kRecurrentGemma, R"({"hidden_activation":null})", kInvalid,
             "hidden_activation is missing"},
        Bent{"UnscaledEmbeddings", kRecurrentGemma, R"({"embeddings_scale_by_sqrt_dim":false})", kUnsupported,
             "embeddings_scale_by_sqrt_dim"},
        Bent{"HeadsNoMultiple", kGemma2, R"({"num_attention_heads":3,"num_key_value_heads":2})", kInvalid,
             "num_attention_heads is 3, no multiple of num_key_value_heads 2"},
        Bent{"OddHeadDim", kGemma2, R"({"head_dim":7})", kInvalid, "head_dim is 7"},
        Bent{"OddRotaryWidth", kRecurrentGemma, R"({"head_dim":6})", kInvalid, "RoPE would rotate 3"},
        Bent{"FractionalRotaryWidth", kRecurrentGemma, R"({"partial_rotary_factor":0.3})", kInvalid, "head_dim is 8"},
        Bent{"FractionalLayers", kGemma2, R"({"num_hidden_layers":4.5})", kInvalid, "expected an integer"},
        Bent{"ManyLayers", kGemma2, R"({"num_hidden_layers":1000000000})", kInvalid, "expected 1 to 1024"},
        Bent{"HugeVocabulary", kGemma2, R"({"vocab_size":4294967296})", kInvalid, "vocab_size is 4294967296"},
        Bent{"LayerTypesTooShort", kGemma2, R"({"layer_types":["full_attention"]})", kInvalid,
             "has 1 entries, but num_hidden_layers is 4"},
        Bent{"LayerTypesUnknown", kGemma2,
             R"({"layer_types":["full_attention","x","full_attention","full_attention"]})", kInvalid, "for layer 1"},
        Bent{"LayerTypesIsText", kGemma2, R"({"layer_types":"full_attention"})", kInvalid, "not a list"},
        Bent{"OddIntermediate", kRecurrentGemma, R"({"intermediate_size":13})", kInvalid, "expected an even number"},
        Bent{"LruNoMultiple", kRecurrentGemma, R"({"lru_width":7})", kInvalid,
             "lru_width is 7, no multiple of num_attention_heads 2"},
        Bent{"BlockTypesContradict", kRecurrentGemma, R"({"_block_types":["attention"]})", kInvalid, "_block_types is"},
        Bent{"BlockTypesUnknown", kRecurrentGemma, R"({"block_types":["mamba"]})", kInvalid, "mamba"},
        Bent{"BlockTypesEmpty", kRecurrentGemma, R"({"block_types":[]})", kInvalid, "not a list of names"},
        Bent{"TieIsText", kGemma, R"({"tie_word_embeddings":"no"})", kInvalid, "tie_word_embeddings"}),
    [](const auto& info) { return info.param.what; });

TEST(ModelConfigTest, WhatIsNotAJsonObjectIsRefused) {
  const std::string config = TinyConfig(kGemma2).dump();
  const std::vector<std::pair<std::string, std::string>> table = {
      {"", "not valid JSON"},
      {"{", "not valid JSON"},
      {"null", "JSON object"},
      {"[]", "JSON object"},
      {config + "x", "not valid JSON at byte"},
      {R"({"vocab_size":NaN})", "not valid JSON"},
      {R"({"vocab_size":1e999})", "not valid JSON"},
      {R"({"a":1,"b":{"c":1,"c":2}})", "has the key \"c\" twice"},
      {config.substr(0, config.size() - 1) + R"(,"vocab_size":64})", "has the key \"vocab_size\" twice"},
      {R"({"a":)" + std::string(1'000'000, '[') + std::string(1'000'000, ']') + "}", "levels deep"},
      {std::string(1'000'000, '['), "levels deep"},
      {std::string("{\"a\0b", 5), "not valid JSON"},
  };
  for (const auto& [text, message] : table) {
    const auto parsed = ParseModelConfig(text, "m/config.json");
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text.substr(0, 100);
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("m/config.json: "));
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(message));
  }
}

absl::StatusOr<GenerationConfig> ParseGeneration(const std::string& generation, const json& patch = json::object()) {
  json config = TinyConfig(kGemma2);
  config.merge_patch(patch);
  return ParseGenerationConfig(generation, config.dump(), "m/generation_config.json");
}

TEST(GenerationConfigTest, TokensFallBackToTheConfigThenToGemmas) {
  const auto defaults = ParseGeneration("", {{"bos_token_id", nullptr}, {"eos_token_id", nullptr}});
  ASSERT_TRUE(defaults.ok()) << defaults.status();
  EXPECT_EQ(defaults->bos_token_id, 2);
  EXPECT_THAT(defaults->eos_token_ids, ElementsAre(1));
  const auto from_config = ParseGeneration("", {{"bos_token_id", 5}, {"eos_token_id", {7, 9, 7}}});
  EXPECT_EQ(from_config->bos_token_id, 5);
  EXPECT_THAT(from_config->eos_token_ids, ElementsAre(7, 9));
  const auto both = ParseGeneration(R"({"eos_token_id":[1,11],"pad_token_id":3})", {{"bos_token_id", 5}});
  EXPECT_EQ(both->bos_token_id, 5);
  EXPECT_EQ(both->pad_token_id, 3);
  EXPECT_THAT(both->eos_token_ids, ElementsAre(1, 11));
}

TEST(GenerationConfigTest, SamplingFieldsAreAbsentUnlessGiven) {
  const auto none = ParseGeneration(R"({"temperature":null})");
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_LT(none->temperature, 0);
  EXPECT_LT(none->top_k, 0);
  EXPECT_LT(none->top_p, 0);
  EXPECT_LT(none->repetition_penalty, 0);
  EXPECT_LT(none->max_new_tokens, 0);
  EXPECT_EQ(none->do_sample, -1);
  const auto all = ParseGeneration(
      R"({"temperature":0.7,"top_k":64,"top_p":0.95,"repetition_penalty":1.1,"max_new_tokens":20,"do_sample":true})");
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_EQ(all->temperature, 0.7f);
  EXPECT_EQ(all->top_k, 64);
  EXPECT_EQ(all->top_p, 0.95f);
  EXPECT_EQ(all->repetition_penalty, 1.1f);
  EXPECT_EQ(all->max_new_tokens, 20);
  EXPECT_EQ(all->do_sample, 1);
}

TEST(GenerationConfigTest, BadValuesAreRefusedByField) {
  const std::vector<std::pair<std::string, std::string>> table = {
      {"[]", "JSON object"},
      {R"({"eos_token_id":32})", "eos_token_id is 32, expected 0 to 31"},
      {R"({"eos_token_id":[1,-1]})", "eos_token_id is -1"},
      {R"({"eos_token_id":[null]})", "holds null"},
      {R"({"eos_token_id":[[1]]})", "expected an integer"},
      {R"({"eos_token_id":"</s>"})", "expected an integer"},
      {R"({"bos_token_id":4294967298})", "bos_token_id is 4294967298"},
      {R"({"pad_token_id":-1})", "pad_token_id"},
      {R"({"temperature":-0.1})", "temperature"},
      {R"({"temperature":"hot"})", "temperature is a string"},
      {R"({"top_p":1.5})", "top_p"},
      {R"({"top_k":-5})", "top_k"},
      {R"({"top_k":2.5})", "top_k"},
      {R"({"repetition_penalty":0})", "repetition_penalty"},
      {R"({"max_new_tokens":0})", "max_new_tokens"},
      {R"({"do_sample":1})", "do_sample"},
  };
  for (const auto& [text, message] : table) {
    const auto parsed = ParseGeneration(text);
    EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("m/generation_config.json"));
    EXPECT_THAT(std::string(parsed.status().message()), HasSubstr(message));
  }
  const auto parsed = ParseGeneration("", {{"eos_token_id", 99}});
  EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("m/config.json: eos_token_id is 99"));
}

}  // namespace
}  // namespace baton
