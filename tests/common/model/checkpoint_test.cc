#include "common/model/checkpoint.h"

#include <filesystem>
#include <functional>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/common/model/checkpoint_files.h"

namespace baton {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

constexpr ModelFamily kFamilies[] = {ModelFamily::kGemma, ModelFamily::kGemma2, ModelFamily::kRecurrentGemma};
constexpr char kQuery[] = "model.layers.1.self_attn.q_proj.weight";

void ExpectRefused(const TemporaryDirectory& directory, absl::StatusCode code,
                   const std::vector<std::string>& messages) {
  const auto checkpoint = Checkpoint::Open(directory.path());
  ASSERT_EQ(checkpoint.status().code(), code) << checkpoint.status();
  for (const std::string& message : messages) {
    EXPECT_THAT(std::string(checkpoint.status().message()), HasSubstr(message));
  }
}

FileTensor& Named(std::vector<FileTensor>& tensors, const std::string& name) {
  for (FileTensor& tensor : tensors) {
    if (tensor.name == name) return tensor;
  }
  ADD_FAILURE() << "no tensor " << name;
  return tensors.front();
}

// An index and two shards, the second from tensor `cut` on.
json WriteShards(const TemporaryDirectory& directory, const json& config, const std::vector<FileTensor>& tensors,
                 size_t cut = 5) {
  json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", json::object()}};
  for (size_t i = 0; i < tensors.size(); ++i) {
    index["weight_map"][tensors[i].name] = i < cut ? "first.safetensors" : "second.safetensors";
  }
  directory.Write("config.json", config.dump());
  directory.Write("first.safetensors", SafetensorsBytes({tensors.begin(), tensors.begin() + cut}));
  directory.Write("second.safetensors", SafetensorsBytes({tensors.begin() + cut, tensors.end()}));
  directory.Write("model.safetensors.index.json", index.dump());
  return index;
}

TEST(CheckpointTest, OpensEveryFamily) {
  for (const ModelFamily family : kFamilies) {
    const TemporaryDirectory directory;
    const json config = TinyConfig(family);
    const std::vector<FileTensor> tensors = TinyTensors(config);
    WriteCheckpoint(directory, config, tensors);
    const auto checkpoint = Checkpoint::Open(directory.path());
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_EQ(checkpoint->config().family, family);
    EXPECT_EQ(checkpoint->tokenizer(), "");
    EXPECT_EQ(checkpoint->tensor_bytes(), checkpoint->parameters() * 4);

    const auto norm = checkpoint->Find(tensors.back().name, {8});
    ASSERT_TRUE(norm.ok()) << norm.status();
    std::vector<float> values(8);
    norm->ToFloat(0, absl::MakeSpan(values));
    EXPECT_EQ(values[1], 1.0f / 64 + static_cast<float>(tensors.size() - 1));
  }
}

TEST(CheckpointTest, OpensTheShardedGoldenCheckpoint) {
  const auto checkpoint = Checkpoint::Open(BATON_TEST_DATA "/golden/gemma2-tiny-bf16-sharded");
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  EXPECT_EQ(checkpoint->parameters(), 705264);
  EXPECT_EQ(checkpoint->tensor_bytes(), 1410528);
  const auto query = checkpoint->Find("model.layers.3.self_attn.q_proj.weight", {128, 112});
  ASSERT_TRUE(query.ok()) << query.status();
  EXPECT_EQ(query->type, TensorType::kBF16);
}

TEST(CheckpointTest, OpensTheBundledModels) {
  for (const std::string name : {"tiny-gemma2", "tiny-recurrentgemma"}) {
    const auto checkpoint = Checkpoint::Open(std::string(BATON_BUNDLED_MODELS) + "/" + name);
    ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
    EXPECT_THAT(checkpoint->generation().eos_token_ids, testing::ElementsAre(1, 5));
    EXPECT_EQ(checkpoint->generation().do_sample, 0);
    EXPECT_FALSE(checkpoint->tokenizer().empty());
  }
}

TEST(CheckpointTest, TensorCountsPerLayerAreTheFamilies) {
  const auto count = [](ModelFamily family) {
    return ExpectedTensors(*ParseModelConfig(TinyConfig(family).dump(), "c")).size();
  };
  EXPECT_EQ(count(ModelFamily::kGemma), 2u + 4 * 9);
  EXPECT_EQ(count(ModelFamily::kGemma2), 2u + 4 * 11);
  EXPECT_EQ(count(ModelFamily::kRecurrentGemma), 2u + 3 * 21 + 13);
}

TEST(CheckpointTest, FindNamesTensorAndShapes) {
  const TemporaryDirectory directory;
  const json config = TinyConfig(ModelFamily::kGemma2);
  WriteCheckpoint(directory, config, TinyTensors(config));
  const auto checkpoint = Checkpoint::Open(directory.path());
  ASSERT_TRUE(checkpoint.ok());
  const auto wrong = checkpoint->Find(kQuery, {16, 9});
  EXPECT_EQ(wrong.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(wrong.status().message()), HasSubstr("shape [16, 8], expected [16, 9]"));
  EXPECT_THAT(std::string(checkpoint->Find("nothing", {1}).status().message()), HasSubstr("\"nothing\""));
}

// Whatever tensor is missing or has one dimension wrong, the message names it.
TEST(CheckpointTest, EveryTensorIsCheckedInEveryFamily) {
  for (const ModelFamily family : kFamilies) {
    const json config = TinyConfig(family);
    const std::vector<FileTensor> tensors = TinyTensors(config);
    for (size_t i = 0; i < tensors.size(); ++i) {
      const TemporaryDirectory directory;
      std::vector<FileTensor> bent = tensors;
      bent.erase(bent.begin() + static_cast<ptrdiff_t>(i));
      WriteCheckpoint(directory, config, bent);
      ExpectRefused(directory, absl::StatusCode::kInvalidArgument,
                    {directory.File("model.safetensors"), '"' + tensors[i].name + '"', "is missing"});

      bent = tensors;
      bent[i].shape.front() += 1;
      const size_t row = bent[i].bytes.size() / static_cast<size_t>(tensors[i].shape.front());
      bent[i].bytes.resize(bent[i].bytes.size() + row);
      WriteCheckpoint(directory, config, bent);
      ExpectRefused(directory, absl::StatusCode::kInvalidArgument,
                    {'"' + tensors[i].name + "\" has shape " + ShapeText(bent[i].shape) + ", expected " +
                     ShapeText(tensors[i].shape)});
    }
  }
}

TEST(CheckpointTest, ContradictionsNameTheConfigFields) {
  struct Contradiction {
    ModelFamily family;
    std::string field;
    int value;
    std::string message;
  };
  const Contradiction table[] = {
      {ModelFamily::kGemma2, "hidden_size", 16, "[vocab_size, hidden_size] of config.json"},
      {ModelFamily::kGemma2, "num_attention_heads", 4, "[num_attention_heads * head_dim, hidden_size]"},
      {ModelFamily::kGemma2, "num_key_value_heads", 2, "[num_key_value_heads * head_dim, hidden_size]"},
      {ModelFamily::kGemma2, "intermediate_size", 14, "[intermediate_size, hidden_size]"},
      {ModelFamily::kGemma2, "num_hidden_layers", 5, "\"model.layers.4.input_layernorm.weight\""},
      {ModelFamily::kGemma2, "num_hidden_layers", 3, "no place for: \"model.layers.3.input_layernorm.weight\""},
      {ModelFamily::kRecurrentGemma, "intermediate_size", 6, "[intermediate_size / 2, hidden_size]"},
      {ModelFamily::kRecurrentGemma, "lru_width", 8, "[lru_width, hidden_size]"},
      {ModelFamily::kRecurrentGemma, "conv1d_width", 3, "[lru_width, 1, conv1d_width]"},
  };
  for (const Contradiction& contradiction : table) {
    const TemporaryDirectory directory;
    json config = TinyConfig(contradiction.family);
    const std::vector<FileTensor> tensors = TinyTensors(config);
    config[contradiction.field] = contradiction.value;
    WriteCheckpoint(directory, config, tensors);
    ExpectRefused(directory, absl::StatusCode::kInvalidArgument, {contradiction.message});
  }
}

TEST(CheckpointTest, LeftoverTensorsAreListed) {
  const TemporaryDirectory directory;
  const json config = TinyConfig(ModelFamily::kGemma);
  std::vector<FileTensor> tensors = TinyTensors(config);
  for (const char* name : {"score.weight", "a", "b", "c"}) tensors.push_back({name, "F32", {1}, FloatBytes({0})});
  WriteCheckpoint(directory, config, tensors);
  ExpectRefused(directory, absl::StatusCode::kInvalidArgument, {"no place for: \"a\", \"b\", \"c\" and 1 more"});
}

TEST(CheckpointTest, IntegerWeightsAreRefused) {
  const TemporaryDirectory directory;
  const json config = TinyConfig(ModelFamily::kGemma);
  std::vector<FileTensor> tensors = TinyTensors(config);
  Named(tensors, kQuery).dtype = "I32";
  WriteCheckpoint(directory, config, tensors);
  ExpectRefused(directory, absl::StatusCode::kInvalidArgument, {kQuery, "is of type I32, expected BF16, F16 or F32"});
}

TEST(CheckpointTest, MixedTypesAreFine) {
  const TemporaryDirectory directory;
  const json config = TinyConfig(ModelFamily::kGemma);
  std::vector<FileTensor> tensors = TinyTensors(config);
  FileTensor& norm = Named(tensors, "model.norm.weight");
  norm.dtype = "BF16";
  norm.bytes = std::string("\x80\x3F", 2) + std::string(14, '\0');
  WriteCheckpoint(directory, config, tensors);
  const auto checkpoint = Checkpoint::Open(directory.path());
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  float first = 0;
  checkpoint->Find("model.norm.weight", {8})->ToFloat(0, absl::MakeSpan(&first, 1));
  EXPECT_EQ(first, 1.0f);
}

TEST(CheckpointTest, OutputHeadEqualToTheEmbeddingIsTolerated) {
  const TemporaryDirectory directory;
  json config = TinyConfig(ModelFamily::kGemma);
  std::vector<FileTensor> tensors = TinyTensors(config);
  WriteCheckpoint(directory, config, tensors);
  const auto plain = Checkpoint::Open(directory.path());
  ASSERT_TRUE(plain.ok());
  const std::string hash = plain->ContentHash();
  const int64_t parameters = plain->parameters();

  FileTensor head = tensors.front();
  head.name = "lm_head.weight";
  tensors.push_back(head);
  WriteCheckpoint(directory, config, tensors);
  const auto tied = Checkpoint::Open(directory.path());
  ASSERT_TRUE(tied.ok()) << tied.status();
  EXPECT_EQ(tied->ContentHash(), hash);
  EXPECT_EQ(tied->parameters(), parameters);

  config["tie_word_embeddings"] = false;
  directory.Write("config.json", config.dump());
  EXPECT_TRUE(Checkpoint::Open(directory.path()).ok());

  tensors.back().bytes.back() ^= 1;
  WriteCheckpoint(directory, config, tensors);
  ExpectRefused(directory, absl::StatusCode::kUnimplemented, {"\"lm_head.weight\" differs", "tied output heads only"});

  tensors.pop_back();
  WriteCheckpoint(directory, config, tensors);
  ExpectRefused(directory, absl::StatusCode::kInvalidArgument,
                {"\"lm_head.weight\" is missing, though tie_word_embeddings is false"});
}

TEST(CheckpointTest, OutputHeadOfAnotherTypeIsComparedByValue) {
  const TemporaryDirectory directory;
  const json config = TinyConfig(ModelFamily::kGemma);
  std::vector<FileTensor> tensors = TinyTensors(config);
  // 1.0 everywhere, in both types.
  tensors.front().bytes = FloatBytes(std::vector<float>(32 * 8, 1.0f));
  FileTensor head{"lm_head.weight", "BF16", {32, 8}, ""};
  for (int i = 0; i < 32 * 8; ++i) head.bytes += std::string("\x80\x3F", 2);
  tensors.push_back(head);
  WriteCheckpoint(directory, config, tensors);
  EXPECT_TRUE(Checkpoint::Open(directory.path()).ok()) << Checkpoint::Open(directory.path()).status();
  tensors.back().bytes[100] ^= 1;
  WriteCheckpoint(directory, config, tensors);
  ExpectRefused(directory, absl::StatusCode::kUnimplemented, {"differs"});
  tensors.back().shape = {8, 32};
  WriteCheckpoint(directory, config, tensors);
  ExpectRefused(directory, absl::StatusCode::kInvalidArgument, {"\"lm_head.weight\" has shape [8, 32]"});
}

TEST(CheckpointTest, ShardsAreOneCheckpoint) {
  const json config = TinyConfig(ModelFamily::kRecurrentGemma);
  const std::vector<FileTensor> tensors = TinyTensors(config);
  const TemporaryDirectory single, sharded;
  WriteCheckpoint(single, config, tensors);
  WriteShards(sharded, config, tensors);
  const auto one = Checkpoint::Open(single.path());
  const auto two = Checkpoint::Open(sharded.path());
  ASSERT_TRUE(one.ok()) << one.status();
  ASSERT_TRUE(two.ok()) << two.status();
  EXPECT_EQ(one->tensor_bytes(), two->tensor_bytes());
  EXPECT_EQ(one->ContentHash(), two->ContentHash());
  EXPECT_TRUE(two->Find(tensors.back().name, tensors.back().shape).ok());
}

TEST(CheckpointTest, OneWholeFileGoesBeforeShards) {
  const TemporaryDirectory directory;
  const json config = TinyConfig(ModelFamily::kGemma);
  WriteCheckpoint(directory, config, TinyTensors(config));
  directory.Write("model.safetensors.index.json", "rubbish");
  EXPECT_TRUE(Checkpoint::Open(directory.path()).ok());
}

struct BentIndex {
  std::string what;
  std::function<void(json& index)> bend;
  absl::StatusCode code;
  std::vector<std::string> messages;
};

TEST(CheckpointTest, BentIndexesAreRefused) {
  const json config = TinyConfig(ModelFamily::kGemma);
  const std::vector<FileTensor> tensors = TinyTensors(config);
  const auto points_to = [](const json& target) {
    return [target](json& index) { index["weight_map"][kQuery] = target; };
  };
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  const BentIndex table[] = {
      {"outside", points_to("../other/first.safetensors"), invalid, {kQuery, "../other/first.safetensors", "same dir"}},
      {"absolute", points_to("/etc/passwd"), invalid, {kQuery, "/etc/passwd", "same directory"}},
      {"below", points_to("sub/first.safetensors"), invalid, {kQuery, "same directory"}},
      {"parent", points_to(".."), invalid, {kQuery, "same directory"}},
      {"empty name", points_to(""), invalid, {kQuery, "same directory"}},
      {"zero byte", points_to(std::string("first.safetensors\0", 18)), invalid, {kQuery, "same directory"}},
      {"number", points_to(7), invalid, {kQuery, "is a number, expected a file name"}},
      {"missing shard",
       points_to("third.safetensors"),
       absl::StatusCode::kNotFound,
       {"third.safetensors: is missing", kQuery}},
      {"other shard",
       points_to("first.safetensors"),
       invalid,
       {"first.safetensors: tensor", kQuery, "is missing, which", "model.safetensors.index.json"}},
      {"not in index",
       [](json& index) { index["weight_map"].erase(kQuery); },
       invalid,
       {"second.safetensors: tensor", kQuery, "is not expected"}},
      {"tensor nowhere", [](json& index) { index["weight_map"]["ghost"] = "first.safetensors"; }, invalid, {"ghost"}},
      {"no map", [](json& index) { index.erase("weight_map"); }, invalid, {"weight_map"}},
      {"map is list", [](json& index) { index["weight_map"] = json::array(); }, invalid, {"weight_map"}},
      {"map is empty", [](json& index) { index["weight_map"] = json::object(); }, invalid, {"weight_map is empty"}},
  };
  for (const BentIndex& bent : table) {
    SCOPED_TRACE(bent.what);
    const TemporaryDirectory directory;
    json index = WriteShards(directory, config, tensors);
    bent.bend(index);
    directory.Write("model.safetensors.index.json", index.dump());
    ExpectRefused(directory, bent.code, bent.messages);
  }
}

TEST(CheckpointTest, ATensorInTwoShardsIsRefused) {
  const TemporaryDirectory directory;
  const json config = TinyConfig(ModelFamily::kGemma);
  const std::vector<FileTensor> tensors = TinyTensors(config);
  WriteShards(directory, config, tensors);
  std::vector<FileTensor> second(tensors.begin() + 5, tensors.end());
  second.push_back(tensors.front());
  directory.Write("second.safetensors", SafetensorsBytes(second));
  ExpectRefused(directory, absl::StatusCode::kInvalidArgument,
                {"second.safetensors: tensor \"model.embed_tokens.weight\" is also in", "first.safetensors"});
}

TEST(CheckpointTest, SymlinkedFilesAsInTheHubCacheOpen) {
  const TemporaryDirectory blobs, snapshot;
  const json config = TinyConfig(ModelFamily::kGemma);
  WriteShards(blobs, config, TinyTensors(config));
  for (const auto& entry : std::filesystem::directory_iterator(blobs.path())) {
    std::filesystem::create_symlink(entry.path(), snapshot.File(entry.path().filename().string()));
  }
  EXPECT_TRUE(Checkpoint::Open(snapshot.path()).ok()) << Checkpoint::Open(snapshot.path()).status();
}

TEST(CheckpointTest, TruncatedFilesAreRefused) {
  const TemporaryDirectory directory;
  const json config = TinyConfig(ModelFamily::kGemma);
  const std::string bytes = SafetensorsBytes(TinyTensors(config));
  directory.Write("config.json", config.dump());
  for (const size_t size : {size_t{1}, size_t{7}, size_t{100}, bytes.size() / 2, bytes.size() - 1}) {
    directory.Write("model.safetensors", bytes.substr(0, size));
    ExpectRefused(directory, absl::StatusCode::kInvalidArgument, {directory.File("model.safetensors")});
  }
}

TEST(CheckpointTest, WhatIsNotACheckpointIsToldApart) {
  const TemporaryDirectory directory;
  EXPECT_EQ(Checkpoint::Open(directory.File("absent")).status().code(), absl::StatusCode::kNotFound);
  ExpectRefused(directory, absl::StatusCode::kNotFound, {directory.File("config.json")});
  directory.Write("config.json", TinyConfig(ModelFamily::kGemma).dump());
  EXPECT_EQ(Checkpoint::Open(directory.File("config.json")).status().code(), absl::StatusCode::kInvalidArgument);
  ExpectRefused(directory, absl::StatusCode::kNotFound, {"neither model.safetensors nor"});
  directory.Write("pytorch_model.bin", "x");
  ExpectRefused(directory, absl::StatusCode::kNotFound, {"found \"pytorch_model.bin\" instead"});
}

TEST(CheckpointTest, BadFilesBesideTheWeightsAreRefused) {
  const TemporaryDirectory directory;
  json config = TinyConfig(ModelFamily::kGemma);
  WriteCheckpoint(directory, config, TinyTensors(config));
  directory.Write("generation_config.json", "{\"top_k\":-3}");
  ExpectRefused(directory, absl::StatusCode::kInvalidArgument, {"generation_config.json: top_k is -3"});
  directory.Write("generation_config.json", "{}");
  directory.Write("tokenizer.model", "");
  ExpectRefused(directory, absl::StatusCode::kInvalidArgument, {"tokenizer.model: the file is empty"});
  directory.Write("tokenizer.model", "bytes");
  ASSERT_TRUE(Checkpoint::Open(directory.path()).ok());
  EXPECT_EQ(Checkpoint::Open(directory.path())->tokenizer(), "bytes");
  config["model_type"] = "mistral";
  directory.Write("config.json", config.dump());
  ExpectRefused(directory, absl::StatusCode::kUnimplemented, {"mistral", "gemma, gemma2 and recurrent_gemma"});
}

std::string HashOf(const json& config, const std::vector<FileTensor>& tensors, const ConfigOptions& options = {}) {
  const TemporaryDirectory directory;
  WriteCheckpoint(directory, config, tensors);
  const auto checkpoint = Checkpoint::Open(directory.path(), options);
  EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
  return checkpoint.ok() ? checkpoint->ContentHash() : "";
}

TEST(CheckpointTest, ContentHashSeesWhatChangesTheModelAndNothingElse) {
  const json config = TinyConfig(ModelFamily::kRecurrentGemma);
  const std::vector<FileTensor> tensors = TinyTensors(config);
  const std::string hash = HashOf(config, tensors);
  EXPECT_EQ(hash.size(), 32u);
  EXPECT_EQ(HashOf(config, tensors), hash);

  // Small tensors are hashed whole: any flipped bit shows.
  for (size_t i = 0; i < tensors.size(); ++i) {
    std::vector<FileTensor> bent = tensors;
    bent[i].bytes[bent[i].bytes.size() / 2] ^= 1;
    EXPECT_NE(HashOf(config, bent), hash) << bent[i].name;
  }
  json other = config;
  other["rope_theta"] = 20000.0;
  EXPECT_NE(HashOf(other, tensors), hash);
  EXPECT_NE(HashOf(config, tensors, {.deepmind_window = false}), hash);
  // Neither the order of tensors in the file nor the spacing of config.json counts.
  EXPECT_EQ(HashOf(config, {tensors.rbegin(), tensors.rend()}), hash);
  const TemporaryDirectory directory;
  WriteCheckpoint(directory, config, tensors);
  directory.Write("config.json", config.dump(8));
  EXPECT_EQ(Checkpoint::Open(directory.path())->ContentHash(), hash);
}

}  // namespace
}  // namespace baton
