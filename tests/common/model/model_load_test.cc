// What loading a model gives, and what it makes of how a checkpoint's weights lie in their file.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include "common/base/mapped_file.h"
#include "common/model/model.h"
#include "tests/common/model/checkpoint_files.h"
#include "tests/common/model/small_models.h"
#include "tests/temporary_directory.h"

namespace baton {
namespace {

TEST(ModelLoadTest, Bf16WeightsAreUsedInPlace) {
  const std::string& directory = CheckpointDirectory("gemma2-tiny", TensorType::kBF16);
  const auto checkpoint = Checkpoint::Open(directory);
  ASSERT_TRUE(checkpoint.ok());
  std::unique_ptr<Model> bf16 = LoadModel(directory, WeightPrecision::kBf16);
  std::unique_ptr<Model> f32 = LoadModel(directory, WeightPrecision::kF32);
  // Matrices at two bytes an element, vectors (norms only, here) at four.
  const int64_t vectors = (4 * 6 + 1) * 96;
  EXPECT_EQ(bf16->weight_bytes(), checkpoint->tensor_bytes() + 2 * vectors);
  EXPECT_EQ(f32->weight_bytes(), 2 * checkpoint->tensor_bytes());
  EXPECT_EQ(bf16->parameters(), checkpoint->parameters());
}

// The same values in a file of type `to`, with data starting at an odd address if asked.
void CopyCheckpoint(const std::string& from, TensorType to, bool odd, const TemporaryDirectory& directory) {
  const auto checkpoint = Checkpoint::Open(from);
  ASSERT_TRUE(checkpoint.ok()) << checkpoint.status();
  nlohmann::json header;
  std::string data;
  for (const TensorSpec& spec : ExpectedTensors(checkpoint->config())) {
    const auto tensor = checkpoint->Find(spec.name, spec.shape);
    ASSERT_TRUE(tensor.ok()) << tensor.status();
    const size_t begin = data.size();
    if (to == TensorType::kF32) {
      std::vector<float> values(tensor->elements());
      tensor->ToFloat(0, absl::MakeSpan(values));
      data += FloatBytes(values);
    } else {
      data.append(reinterpret_cast<const char*>(tensor->data), tensor->bytes);
    }
    header[spec.name] = {
        {"dtype", std::string(TensorTypeName(to))}, {"shape", spec.shape}, {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  while (text.size() % 2 != (odd ? 1 : 0)) text += ' ';
  directory.Write("model.safetensors", SafetensorsBytes(text, data));
  directory.Write("config.json", *ReadFile(from + "/config.json"));
}

// In place, copied because it lies unaligned, or converted: the same values give the same bits.
TEST(ModelLoadTest, WeightsAreTheSameHoweverTheyLieInTheFile) {
  const std::string& original = CheckpointDirectory("recurrentgemma-tiny", TensorType::kBF16);
  TemporaryDirectory odd, f32, odd_f32;
  CopyCheckpoint(original, TensorType::kBF16, true, odd);
  CopyCheckpoint(original, TensorType::kF32, false, f32);
  CopyCheckpoint(original, TensorType::kF32, true, odd_f32);
  const std::vector<int32_t> tokens = Prompt(30);
  for (const WeightPrecision weights : {WeightPrecision::kBf16, WeightPrecision::kF32}) {
    std::unique_ptr<Model> model = LoadModel(original, weights);
    SequenceState state = NewState(*model);
    const std::vector<float> want = Logits(*model, state, tokens);
    for (const TemporaryDirectory* copy : {&odd, &f32, &odd_f32}) {
      std::unique_ptr<Model> other = LoadModel(copy->path(), weights);
      SequenceState fresh = NewState(*other);
      EXPECT_TRUE(SameBits(Logits(*other, fresh, tokens), want));
    }
  }
}

TEST(ModelLoadTest, ConvertsF16) {
  const std::string& directory = CheckpointDirectory("gemma-tiny", TensorType::kF16);
  std::unique_ptr<Model> f16 = LoadModel(directory, WeightPrecision::kF32);
  std::unique_ptr<Model> f32 = LoadModel(CheckpointDirectory("gemma-tiny", TensorType::kF32), WeightPrecision::kF32);
  SequenceState a = NewState(*f16), b = NewState(*f32);
  const std::vector<float> got = Logits(*f16, a, Prompt(10)), want = Logits(*f32, b, Prompt(10));
  // F16 weights are off by 2^-12 of their size, logits of size 10 by some hundredths.
  for (size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], want[i], 0.1);
}

TEST(ModelLoadTest, FingerprintsTellWhatMayNotMix) {
  const auto fingerprint = [](const std::string& config, TensorType dtype, ModelOptions options) {
    options.threads = 1;
    const auto model = Model::Load(CheckpointDirectory(config, dtype), options);
    EXPECT_TRUE(model.ok()) << model.status();
    return (*model)->fingerprint().ToHex();
  };
  ModelOptions bf16, f32, transformers;
  f32.weights = WeightPrecision::kF32;
  transformers.config.deepmind_window = false;
  const std::string base = fingerprint("recurrentgemma-tiny", TensorType::kBF16, bf16);
  EXPECT_EQ(fingerprint("recurrentgemma-tiny", TensorType::kBF16, bf16), base);
  EXPECT_NE(fingerprint("recurrentgemma-tiny", TensorType::kBF16, f32), base);
  EXPECT_NE(fingerprint("recurrentgemma-tiny", TensorType::kBF16, transformers), base);
  EXPECT_NE(fingerprint("recurrentgemma-tiny", TensorType::kF32, bf16), base);
  EXPECT_NE(fingerprint("gemma-tiny", TensorType::kBF16, bf16), base);
}

TEST(ModelLoadTest, ReportsProgressUpToTheEnd) {
  for (const WeightPrecision weights : {WeightPrecision::kBf16, WeightPrecision::kF32}) {
    ModelOptions options;
    options.weights = weights;
    options.threads = 1;
    std::vector<std::pair<int64_t, int64_t>> calls;
    options.observer.progress = [&](int64_t done, int64_t total) { calls.emplace_back(done, total); };
    const auto model = Model::Load(CheckpointDirectory("recurrentgemma-tiny", TensorType::kBF16), options);
    ASSERT_TRUE(model.ok()) << model.status();
    ASSERT_FALSE(calls.empty());
    for (size_t i = 1; i < calls.size(); ++i) EXPECT_GE(calls[i].first, calls[i - 1].first);
    EXPECT_EQ(calls.back().first, calls.back().second);
  }
}

TEST(ModelLoadTest, LayoutsFollowTheMixers) {
  std::unique_ptr<Model> model =
      LoadModel(CheckpointDirectory("recurrentgemma-tiny", TensorType::kBF16), WeightPrecision::kBf16);
  const auto layout = model->MakeStateLayout(5);
  ASSERT_EQ(layout->layers.size(), 8u);
  EXPECT_EQ(layout->max_run_tokens, 5);
  EXPECT_EQ(layout->element, ElementType::kBF16);
  EXPECT_EQ(layout->layers[0].kind, LayerStateSpec::Kind::kRecurrent);
  EXPECT_EQ(layout->layers[0].width, 128);
  EXPECT_EQ(layout->layers[0].conv_history, 3);
  EXPECT_EQ(layout->layers[2].kind, LayerStateSpec::Kind::kWindowKv);
  EXPECT_EQ(layout->layers[2].visible_keys, 17);
  EXPECT_EQ(layout->layers[2].kv_heads, 1);
  EXPECT_EQ(layout->layers[2].head_dim, 24);

  std::unique_ptr<Model> gemma2 =
      LoadModel(CheckpointDirectory("gemma2-tiny", TensorType::kBF16), WeightPrecision::kF32);
  const auto mixed = gemma2->MakeStateLayout(1);
  EXPECT_EQ(mixed->element, ElementType::kF32);
  EXPECT_EQ(mixed->layers[0].kind, LayerStateSpec::Kind::kWindowKv);
  EXPECT_EQ(mixed->layers[0].visible_keys, 16);
  EXPECT_EQ(mixed->layers[1].kind, LayerStateSpec::Kind::kGlobalKv);
}

TEST(ModelLoadTest, PassesOnWhatIsWrongWithACheckpoint) {
  const auto missing = Model::Load("/nonexistent/model", {});
  EXPECT_EQ(missing.status().code(), absl::StatusCode::kNotFound);
  EXPECT_NE(std::string(missing.status().message()).find("/nonexistent/model"), std::string::npos);
  ModelOptions options;
  options.threads = -1;
  EXPECT_EQ(Model::Load(CheckpointDirectory("gemma-tiny", TensorType::kBF16), options).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST(ComputeModeTest, OnlyF32IsExact) {
  EXPECT_EQ(ComputeModeOf(WeightPrecision::kF32), ComputeMode::kF32);
  for (const WeightPrecision weights :
       {WeightPrecision::kBf16, WeightPrecision::kInt8, WeightPrecision::kInt4, WeightPrecision::kInt8A8}) {
    EXPECT_EQ(ComputeModeOf(weights), ComputeMode::kBF16);
  }
}

}  // namespace
}  // namespace baton
