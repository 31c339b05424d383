#include "common/model/synth.h"

#include <bit>
#include <filesystem>
#include <string>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/base/mapped_file.h"
#include "common/compute/bf16.h"
#include "tests/common/model/checkpoint_files.h"

namespace baton {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

uint64_t Fnv1a64(absl::string_view bytes) {
  uint64_t hash = 0xcbf29ce484222325;
  for (const char byte : bytes) hash = (hash ^ static_cast<unsigned char>(byte)) * 0x100000001b3;
  return hash;
}

// Values that an independent implementation of the formula gave.
struct CheckValue {
  std::string name;
  std::vector<int64_t> shape;
  uint64_t seed;
  int64_t index;
  uint64_t raw;
  uint32_t float_bits;
  uint16_t bf16_bits;
};

TEST(SynthWeightsTest, MatchesTheCheckValues) {
  const std::string embedding = "model.embed_tokens.weight";
  const std::string query = "model.layers.3.self_attn.q_proj.weight";
  const std::string decay = "model.layers.0.temporal_block.rg_lru.recurrent_param";
  const std::string conv = "model.layers.1.temporal_block.conv_1d.weight";
  const std::string gate = "model.layers.1.temporal_block.rg_lru.input_gate_weight";
  const std::string bias = "model.layers.7.mlp_block.down_proj.bias";
  const CheckValue table[] = {
      {embedding, {512, 96}, 101, 0, 0x3ace213777d5973b, 0xbd43b665, 0xbd44},
      {embedding, {512, 96}, 101, 1, 0x1ca98832cc3ff23a, 0xbd8c7c1d, 0xbd8c},
      {embedding, {512, 96}, 101, 2, 0xe80fe1c357af40fd, 0x3d932a7a, 0x3d93},
      {embedding, {512, 96}, 101, 49151, 0xf4fe05ab7ed755a2, 0x3da573b9, 0x3da5},
      {"model.norm.weight", {96}, 101, 0, 0x11cf14a102923067, 0x409a7d8e, 0x409a},
      {"model.norm.weight", {96}, 101, 95, 0xe3eb1b73627bc54e, 0x40a4fef5, 0x40a5},
      {query, {128, 112}, 223, 0, 0x1f75b919d02199fd, 0xbebd99e1, 0xbebe},
      {query, {128, 112}, 223, 14335, 0xb8303018313b164c, 0x3e5cb3f7, 0x3e5d},
      {decay, {128}, 304, 0, 0x3f4a89bf75fe1d2c, 0xc0d56282, 0xc0d5},
      {decay, {128}, 304, 127, 0x290f28df4ad3855f, 0xc0e7b9e5, 0xc0e8},
      {conv, {128, 1, 4}, 304, 0, 0x1d8684389b93f19a, 0xbf2a901b, 0xbf2b},
      {conv, {128, 1, 4}, 304, 511, 0x7d7d8d3667d19558, 0xbc8b1826, 0xbc8b},
      {gate, {4, 32, 32}, 304, 0, 0x51d8175fa211194d, 0xbde21de7, 0xbde2},
      {gate, {4, 32, 32}, 304, 4095, 0x0e165ee0007167d6, 0xbe8b8390, 0xbe8c},
      {bias, {96}, 304, 0, 0x274e5bf760307706, 0xbe0de908, 0xbe0e},
      {bias, {96}, 304, 95, 0x4bebc6ce39d341ea, 0xbda6a720, 0xbda7},
      {embedding, {256000, 2304}, 1, 0, 0x28433c0f768d52dc, 0xbc4a9eea, 0xbc4b},
      {embedding, {256000, 2304}, 1, 589823999, 0xbd04d8267870a893, 0x3c0ceacb, 0x3c0d},
  };
  for (const CheckValue& check : table) {
    SCOPED_TRACE(check.name + " " + std::to_string(check.index));
    EXPECT_EQ(SynthRaw(check.name, check.seed, static_cast<uint64_t>(check.index)), check.raw);
    float value = 0;
    SynthWeights(check.name, check.shape, check.seed, check.index, absl::MakeSpan(&value, 1));
    EXPECT_EQ(std::bit_cast<uint32_t>(value), check.float_bits);
    EXPECT_EQ(FloatToBf16(value), check.bf16_bits);
  }
}

TEST(SynthWeightsTest, WholeTensorsMatchTheirHashes) {
  struct TensorHash {
    std::string name;
    std::vector<int64_t> shape;
    uint64_t seed;
    bool bf16;
    uint64_t hash;
  };
  const TensorHash table[] = {
      {"model.embed_tokens.weight", {512, 96}, 101, false, 0x77ffabd1bee4653a},
      {"model.norm.weight", {96}, 101, false, 0x8174a7b8bda72615},
      {"model.layers.3.self_attn.q_proj.weight", {128, 112}, 223, true, 0x8d0f7845709af927},
      {"model.layers.0.temporal_block.rg_lru.recurrent_param", {128}, 304, false, 0xc40649fcaa4627e0},
      {"model.layers.1.temporal_block.conv_1d.weight", {128, 1, 4}, 304, false, 0x3cfa57a6c4983f35},
      {"model.layers.1.temporal_block.rg_lru.input_gate_weight", {4, 32, 32}, 304, false, 0xa022dd55db8402d1},
      {"model.layers.7.mlp_block.down_proj.bias", {96}, 304, false, 0x2ee622dec1fbd8ad},
  };
  for (const TensorHash& tensor : table) {
    int64_t elements = 1;
    for (int64_t dimension : tensor.shape) elements *= dimension;
    std::vector<float> values(static_cast<size_t>(elements));
    SynthWeights(tensor.name, tensor.shape, tensor.seed, 0, absl::MakeSpan(values));
    std::string bytes = FloatBytes(values);
    if (tensor.bf16) {
      bytes.clear();
      for (const float value : values) {
        const uint16_t bits = FloatToBf16(value);
        bytes.push_back(static_cast<char>(bits));
        bytes.push_back(static_cast<char>(bits >> 8));
      }
    }
    EXPECT_EQ(Fnv1a64(bytes), tensor.hash) << tensor.name;
  }
}

TEST(SynthWeightsTest, PiecesEqualTheWhole) {
  std::vector<float> whole(1000), piece(37);
  SynthWeights("x.weight", {1000, 8}, 5, 200, absl::MakeSpan(whole));
  SynthWeights("x.weight", {1000, 8}, 5, 300, absl::MakeSpan(piece));
  EXPECT_TRUE(std::equal(piece.begin(), piece.end(), whole.begin() + 100));
}

TEST(SynthPresetsTest, HaveTheParameterCountsOfTheRealModels) {
  const std::vector<std::pair<std::string, int64_t>> expected = {
      {"gemma-2b", 2'506'172'416},          {"gemma-7b", 8'537'680'896},     {"gemma-2-2b", 2'614'341'888},
      {"gemma-2-9b", 9'241'705'984},        {"gemma-2-27b", 27'227'128'320}, {"recurrentgemma-2b", 2'682'862'080},
      {"recurrentgemma-9b", 8'579'977'216},
  };
  std::vector<std::pair<std::string, int64_t>> found;
  for (const SynthPreset& preset : SynthPresets()) found.emplace_back(preset.name, preset.parameters);
  EXPECT_EQ(found, expected);
}

SynthOptions TinyOptions(const TemporaryDirectory& directory, ModelFamily family = ModelFamily::kGemma2) {
  SynthOptions options;
  options.config_text = TinyConfig(family).dump();
  options.out = directory.File("out");
  options.threads = 2;
  return options;
}

std::vector<std::string> Names(const std::string& directory) {
  std::vector<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    names.push_back(entry.path().filename().string());
  }
  return names;
}

void ExpectSameTensors(const Checkpoint& left, const Checkpoint& right) {
  EXPECT_EQ(left.tensor_bytes(), right.tensor_bytes());
  for (const TensorSpec& spec : ExpectedTensors(left.config())) {
    const auto a = left.Find(spec.name, spec.shape);
    const auto b = right.Find(spec.name, spec.shape);
    ASSERT_TRUE(a.ok()) << a.status();
    ASSERT_TRUE(b.ok()) << b.status();
    EXPECT_EQ(a->type, b->type) << spec.name;
    ASSERT_EQ(a->bytes, b->bytes) << spec.name;
    EXPECT_EQ(std::memcmp(a->data, b->data, static_cast<size_t>(a->bytes)), 0) << spec.name;
  }
}

struct Golden {
  std::string name;
  uint64_t seed;
  int64_t shard_bytes;
};

// Stored checkpoints come out of the formula tensor for tensor.
TEST(SynthTest, ReproducesTheStoredGoldenCheckpoints) {
  for (const Golden& golden :
       {Golden{"gemma-tiny-bf16", 122, 5'000'000'000}, Golden{"gemma2-tiny-bf16-sharded", 223, 800'000}}) {
    const TemporaryDirectory directory;
    const std::string stored = std::string(BATON_TEST_DATA) + "/golden/" + golden.name;
    SynthOptions options;
    options.config_text = *ReadFile(stored + "/config.json");
    options.seed = golden.seed;
    options.out = directory.path();
    options.shard_bytes = golden.shard_bytes;
    const auto summary = WriteSyntheticCheckpoint(options);
    ASSERT_TRUE(summary.ok()) << summary.status();
    const auto expected = Checkpoint::Open(stored);
    const auto written = Checkpoint::Open(directory.path());
    ASSERT_TRUE(expected.ok()) << expected.status();
    ASSERT_TRUE(written.ok()) << written.status();
    ExpectSameTensors(*expected, *written);
    EXPECT_EQ(expected->ContentHash(), written->ContentHash());
    EXPECT_EQ(json::parse(directory.Read("config.json")), json::parse(options.config_text));
  }
}

TEST(SynthTest, WritesACheckpointThatOpensForEveryFamilyAndType) {
  for (const ModelFamily family : {ModelFamily::kGemma, ModelFamily::kGemma2, ModelFamily::kRecurrentGemma}) {
    for (const TensorType type : {TensorType::kF32, TensorType::kF16, TensorType::kBF16}) {
      const TemporaryDirectory directory;
      SynthOptions options = TinyOptions(directory, family);
      options.dtype = type;
      const auto summary = WriteSyntheticCheckpoint(options);
      ASSERT_TRUE(summary.ok()) << summary.status();
      const auto checkpoint = Checkpoint::Open(options.out);
      ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
      EXPECT_EQ(summary->parameters, checkpoint->parameters());
      EXPECT_EQ(summary->tensor_bytes, checkpoint->tensor_bytes());
      EXPECT_THAT(summary->files, ElementsAre("model.safetensors", "generation_config.json", "config.json"));
      EXPECT_EQ(checkpoint->generation().bos_token_id, 2);
      const auto table = checkpoint->Find("model.embed_tokens.weight", {32, 8});
      EXPECT_EQ(table->type, type);
    }
  }
}

TEST(SynthTest, HalfIsTheNearestToTheFormula) {
  const TemporaryDirectory directory;
  SynthOptions options = TinyOptions(directory);
  options.dtype = TensorType::kF16;
  ASSERT_TRUE(WriteSyntheticCheckpoint(options).ok());
  const auto checkpoint = Checkpoint::Open(options.out);
  ASSERT_TRUE(checkpoint.ok());
  for (const TensorSpec& spec : ExpectedTensors(checkpoint->config())) {
    const TensorView tensor = *checkpoint->Find(spec.name, spec.shape);
    const size_t elements = static_cast<size_t>(tensor.elements());
    std::vector<float> stored(elements), exact(elements), below(elements), above(elements);
    tensor.ToFloat(0, absl::MakeSpan(stored));
    SynthWeights(spec.name, spec.shape, options.seed, 0, absl::MakeSpan(exact));
    // The neighbours of each stored value.
    std::string lower(tensor.bytes, '\0'), upper(tensor.bytes, '\0');
    for (size_t i = 0; i < elements; ++i) {
      uint16_t bits;
      std::memcpy(&bits, tensor.data + 2 * i, 2);
      const uint16_t down = bits - 1, up = bits + 1;
      std::memcpy(&lower[2 * i], &down, 2);
      std::memcpy(&upper[2 * i], &up, 2);
    }
    TensorView neighbour = tensor;
    neighbour.data = reinterpret_cast<const std::byte*>(lower.data());
    neighbour.ToFloat(0, absl::MakeSpan(below));
    neighbour.data = reinterpret_cast<const std::byte*>(upper.data());
    neighbour.ToFloat(0, absl::MakeSpan(above));
    for (size_t i = 0; i < elements; ++i) {
      EXPECT_LE(std::abs(stored[i] - exact[i]), std::abs(below[i] - exact[i])) << spec.name << i;
      EXPECT_LE(std::abs(stored[i] - exact[i]), std::abs(above[i] - exact[i])) << spec.name << i;
    }
  }
}

TEST(SynthTest, ThreadsAndShardsChangeNoByte) {
  const TemporaryDirectory one, many;
  SynthOptions options = TinyOptions(one);
  json config = TinyConfig(ModelFamily::kGemma2);
  config["vocab_size"] = 40'000;  // several blocks
  options.config_text = config.dump();
  options.threads = 1;
  ASSERT_TRUE(WriteSyntheticCheckpoint(options).ok());
  options.out = many.File("out");
  options.threads = 4;
  options.shard_bytes = 1000;
  ASSERT_TRUE(WriteSyntheticCheckpoint(options).ok());
  const auto left = Checkpoint::Open(one.File("out"));
  const auto right = Checkpoint::Open(many.File("out"));
  ASSERT_TRUE(left.ok()) << left.status();
  ASSERT_TRUE(right.ok()) << right.status();
  ExpectSameTensors(*left, *right);
  EXPECT_EQ(json::parse(many.Read("out/model.safetensors.index.json"))["metadata"]["total_size"],
            right->tensor_bytes());
}

TEST(SynthTest, ShardsAreCutBeforeTheyGrowTooLarge) {
  const TemporaryDirectory directory;
  SynthOptions options = TinyOptions(directory);
  options.shard_bytes = 1000;
  const auto summary = WriteSyntheticCheckpoint(options);
  ASSERT_TRUE(summary.ok()) << summary.status();
  const auto checkpoint = Checkpoint::Open(options.out);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  int shards = 0;
  for (const std::string& name : summary->files) {
    if (!name.ends_with(".safetensors")) continue;
    ++shards;
    const auto file = SafetensorsFile::Open(options.out + "/" + name);
    ASSERT_TRUE(file.ok()) << file.status();
    int64_t bytes = 0;
    for (const TensorView& tensor : file->tensors()) bytes += tensor.bytes;
    EXPECT_LE(bytes, 1000);
  }
  EXPECT_GT(shards, 1);
  EXPECT_EQ(summary->files.front(), "model-00001-of-" + std::string(5 - std::to_string(shards).size(), '0') +
                                        std::to_string(shards) + ".safetensors");
}

TEST(SynthTest, ProgressRisesToTheTotal) {
  const TemporaryDirectory directory;
  SynthOptions options = TinyOptions(directory);
  std::vector<int64_t> done;
  int64_t total = 0;
  options.progress = [&](int64_t bytes, int64_t of) {
    done.push_back(bytes);
    total = of;
  };
  const auto summary = WriteSyntheticCheckpoint(options);
  ASSERT_TRUE(summary.ok());
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_EQ(done.back(), total);
  EXPECT_EQ(total, summary->tensor_bytes);
}

TEST(SynthTest, CopiesTheTokenizerAndNamesTheType) {
  const TemporaryDirectory directory;
  directory.Write("some.model", "pieces");
  SynthOptions options = TinyOptions(directory);
  options.tokenizer_path = directory.File("some.model");
  options.dtype = TensorType::kF32;
  ASSERT_TRUE(WriteSyntheticCheckpoint(options).ok());
  EXPECT_EQ(Checkpoint::Open(options.out)->tokenizer(), "pieces");
  EXPECT_EQ(json::parse(directory.Read("out/config.json"))["torch_dtype"], "float32");
}

TEST(SynthTest, AFilledDirectoryIsLeftAloneUnlessForced) {
  const TemporaryDirectory directory;
  SynthOptions options = TinyOptions(directory);
  options.shard_bytes = 1000;
  ASSERT_TRUE(WriteSyntheticCheckpoint(options).ok());
  directory.Write("out/notes.txt", "mine");
  const std::string config = directory.Read("out/config.json");

  options.seed = 2;
  options.shard_bytes = 5'000'000'000;
  EXPECT_EQ(WriteSyntheticCheckpoint(options).status().code(), absl::StatusCode::kAlreadyExists);
  EXPECT_EQ(directory.Read("out/config.json"), config);

  options.force = true;
  ASSERT_TRUE(WriteSyntheticCheckpoint(options).ok());
  // Old shards and their index are gone, other people's files are not.
  EXPECT_THAT(Names(options.out),
              UnorderedElementsAre("config.json", "generation_config.json", "model.safetensors", "notes.txt"));
  EXPECT_TRUE(Checkpoint::Open(options.out).ok());
}

TEST(SynthTest, ADiskThatIsTooSmallIsToldBeforeAnythingIsWritten) {
  const TemporaryDirectory directory;
  SynthOptions options = TinyOptions(directory);
  json config = TinyConfig(ModelFamily::kGemma2);
  config["vocab_size"] = 1 << 24;
  config["hidden_size"] = 1 << 18;
  options.config_text = config.dump();
  const auto summary = WriteSyntheticCheckpoint(options);
  EXPECT_EQ(summary.status().code(), absl::StatusCode::kResourceExhausted) << summary.status();
  EXPECT_THAT(std::string(summary.status().message()), HasSubstr("free"));
  EXPECT_THAT(Names(options.out), ElementsAre());
}

TEST(SynthTest, BadOptionsAreRefused) {
  const TemporaryDirectory directory;
  directory.Write("file", "x");
  const SynthOptions good = TinyOptions(directory);
  const auto refuse = [&](auto bend, absl::StatusCode code, const std::string& message) {
    SynthOptions options = good;
    bend(options);
    const absl::Status status = WriteSyntheticCheckpoint(options).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
  };
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  refuse([](SynthOptions& o) { o.preset = "gemma-2-2b"; }, invalid, "not both");
  refuse([](SynthOptions& o) { o.config_text = ""; }, invalid, "neither");
  refuse([](SynthOptions& o) { o.config_text = "", o.preset = "gemma-3"; }, invalid,
         "no preset \"gemma-3\"; there are gemma-2b, gemma-7b");
  refuse([](SynthOptions& o) { o.config_text = "{}", o.config_path = "my.json"; }, invalid, "my.json: model_type");
  refuse([](SynthOptions& o) { o.dtype = TensorType::kI32; }, invalid, "I32");
  refuse([](SynthOptions& o) { o.shard_bytes = 0; }, invalid, "shard size");
  refuse([](SynthOptions& o) { o.out = ""; }, invalid, "output directory");
  refuse([](SynthOptions& o) { o.tokenizer_path = "/nonexistent"; }, absl::StatusCode::kNotFound, "/nonexistent");
  SynthOptions onto_file = good;
  onto_file.out = directory.File("file");
  EXPECT_FALSE(WriteSyntheticCheckpoint(onto_file).ok());
  EXPECT_EQ(directory.Read("file"), "x");
  EXPECT_FALSE(std::filesystem::exists(good.out));
}

}  // namespace
}  // namespace baton
