// What Model promises its callers, on small synthetic checkpoints of all three families. That the numbers are the right
// ones is tests/golden's business.
#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/mapped_file.h"
#include "common/model/model.h"
#include "common/model/synth.h"
#include "common/state/state_pieces.h"
#include "tests/common/model/checkpoint_files.h"
#include "tests/temporary_directory.h"

namespace baton {
namespace {

// One checkpoint directory per (golden config, element type), for all tests of the program.
const std::string& CheckpointDirectory(const std::string& config_name, TensorType dtype) {
  static std::map<std::string, TemporaryDirectory> directories;
  const auto [directory, fresh] = directories.try_emplace(absl::StrCat(config_name, TensorTypeName(dtype)));
  const std::string& path = directory->second.path();
  if (!fresh) return path;
  SynthOptions options;
  options.config_text = *ReadFile(absl::StrCat(BATON_TEST_DATA, "/golden/", config_name, "/config.json"));
  options.seed = 7;
  options.dtype = dtype;
  options.out = path;
  options.threads = 1;
  const auto written = WriteSyntheticCheckpoint(options);
  EXPECT_TRUE(written.ok()) << written.status();
  return path;
}

std::unique_ptr<Model> LoadModel(const std::string& directory, WeightPrecision weights, int threads = 1) {
  ModelOptions options;
  options.weights = weights;
  options.threads = threads;
  absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(directory, options);
  EXPECT_TRUE(model.ok()) << model.status();
  return std::move(*model);
}

MemoryBudget& Budget() {
  static MemoryBudget budget(int64_t{1} << 32);
  return budget;
}

SequenceState NewState(const Model& model, int max_run = 64, int64_t max_tokens = 200) {
  absl::StatusOr<SequenceState> state = SequenceState::Create(model.MakeStateLayout(max_run), Budget(), max_tokens);
  EXPECT_TRUE(state.ok()) << state.status();
  return std::move(*state);
}

std::vector<int32_t> Prompt(int length, int seed = 1) {
  std::vector<int32_t> tokens = {2};
  while (static_cast<int>(tokens.size()) < length) {
    tokens.push_back(3 + static_cast<int32_t>(SynthRaw("prompt", seed, tokens.size()) % 500));
  }
  return tokens;
}

// Logits of every token.
std::vector<float> Logits(Model& model, SequenceState& state, absl::Span<const int32_t> tokens) {
  std::vector<float> logits(tokens.size() * model.config().vocab_size);
  const SequenceRun run{&state, tokens, 0};
  model.Forward({&run, 1}, absl::MakeSpan(logits));
  return logits;
}

bool SameBits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

class ModelForwardTest : public testing::TestWithParam<std::tuple<std::string, WeightPrecision>> {
 protected:
  std::unique_ptr<Model> Load(int threads = 1) {
    const auto& [name, weights] = GetParam();
    return LoadModel(CheckpointDirectory(name, TensorType::kBF16), weights, threads);
  }
};

INSTANTIATE_TEST_SUITE_P(All, ModelForwardTest,
                         testing::Combine(testing::Values("gemma-tiny", "gemma2-tiny", "recurrentgemma-tiny"),
                                          testing::Values(WeightPrecision::kF32, WeightPrecision::kBf16,
                                                          WeightPrecision::kInt8, WeightPrecision::kInt4,
                                                          WeightPrecision::kInt8A8)),
                         [](const auto& info) {
                           std::string name = std::get<0>(info.param);
                           name.resize(name.find('-'));
                           return absl::StrCat(name, "_", WeightPrecisionName(std::get<1>(info.param)));
                         });

// What leaves when a layer is said to be done is what the state holds in the end, and the result does not notice.
TEST_P(ModelForwardTest, LayersAreFinalWhenTheyAreDone) {
  std::unique_ptr<Model> model = Load(2);
  const std::vector<int32_t> tokens = Prompt(50);
  SequenceState undisturbed = NewState(*model);
  const std::vector<float> expected = Logits(*model, undisturbed, tokens);

  SequenceState state = NewState(*model);
  const int64_t total = static_cast<int64_t>(tokens.size());
  StateCutter cutter(state.layout(), total);
  std::vector<std::string> at_once(state.layout().layers.size());
  std::vector<std::vector<StatePiece>> pieces(at_once.size());
  const auto bytes = [](const std::vector<StatePiece>& all) {
    std::string joined;
    for (const StatePiece& piece : all) {
      for (absl::string_view range : piece.bytes) joined.append(range.data(), range.size());
    }
    return joined;
  };
  int next_layer = 0;
  std::vector<float> logits(tokens.size() * model->config().vocab_size);
  const SequenceRun run{&state, tokens, 0};
  model->Forward({&run, 1}, absl::MakeSpan(logits), nullptr, [&](int layer) {
    EXPECT_EQ(layer, next_layer++);
    EXPECT_EQ(state.position(), 0);
    cutter.LayerDone(state, layer, total, &pieces[layer]);
    at_once[layer] = bytes(pieces[layer]);
  });
  EXPECT_EQ(next_layer, static_cast<int>(at_once.size()));
  EXPECT_TRUE(cutter.complete());
  for (size_t layer = 0; layer < at_once.size(); ++layer) {
    EXPECT_FALSE(at_once[layer].empty());
    EXPECT_TRUE(bytes(pieces[layer]) == at_once[layer]) << "layer " << layer << " changed after it was done";
  }
  EXPECT_TRUE(SameBits(logits, expected));
}

TEST_P(ModelForwardTest, ThreadsChangeNoBit) {
  const std::vector<int32_t> tokens = Prompt(60);
  std::vector<std::vector<float>> results;
  for (const int threads : {1, 2, 3}) {
    std::unique_ptr<Model> model = Load(threads);
    SequenceState state = NewState(*model);
    results.push_back(Logits(*model, state, tokens));
  }
  EXPECT_TRUE(SameBits(results[0], results[1]));
  EXPECT_TRUE(SameBits(results[0], results[2]));
}

TEST_P(ModelForwardTest, RunningTwiceGivesTheSameBits) {
  std::unique_ptr<Model> model = Load();
  SequenceState first = NewState(*model), second = NewState(*model);
  const std::vector<int32_t> tokens = Prompt(33);
  const std::vector<float> a = Logits(*model, first, tokens);
  // A bigger batch in between leaves nothing behind in the workspace.
  SequenceState other = NewState(*model);
  Logits(*model, other, Prompt(64, 9));
  EXPECT_TRUE(SameBits(Logits(*model, second, tokens), a));
}

TEST_P(ModelForwardTest, GivesLogitsOfTheRowsAskedFor) {
  std::unique_ptr<Model> model = Load();
  const size_t vocabulary = model->config().vocab_size;
  const std::vector<int32_t> a = Prompt(9, 1), b = Prompt(5, 2), c = Prompt(7, 3);
  SequenceState a_state = NewState(*model), b_state = NewState(*model), c_state = NewState(*model);
  const std::vector<SequenceRun> runs = {{&a_state, a, 6}, {&b_state, b, 5}, {&c_state, c, 6}};
  std::vector<float> logits((3 + 0 + 1) * vocabulary);
  model->Forward(runs, absl::MakeSpan(logits));
  EXPECT_EQ(a_state.position(), 9);
  EXPECT_EQ(b_state.position(), 5);
  EXPECT_EQ(c_state.position(), 7);

  SequenceState a_alone = NewState(*model), c_alone = NewState(*model);
  const std::vector<float> a_all = Logits(*model, a_alone, a), c_all = Logits(*model, c_alone, c);
  const float tolerance = model->weights() == WeightPrecision::kBf16 ? 0.0f : 1e-4f;
  for (size_t i = 0; i < 3 * vocabulary; ++i) ASSERT_NEAR(logits[i], a_all[6 * vocabulary + i], tolerance);
  for (size_t i = 0; i < vocabulary; ++i) {
    ASSERT_NEAR(logits[3 * vocabulary + i], c_all[6 * vocabulary + i], tolerance);
  }
}

// Logits of every token, run in pieces of the given sizes.
std::vector<float> LogitsInRuns(Model& model, SequenceState& state, absl::Span<const int32_t> tokens,
                                const std::vector<size_t>& runs) {
  std::vector<float> logits;
  for (const size_t run : runs) {
    const std::vector<float> some = Logits(model, state, tokens.first(run));
    logits.insert(logits.end(), some.begin(), some.end());
    tokens.remove_prefix(run);
  }
  return logits;
}

// Around pages (64) and windows, either going first; the fork of a fork, and a state made from a snapshot, too.
TEST_P(ModelForwardTest, ForksEqualSequencesThatNeverForked) {
  std::unique_ptr<Model> model = Load();
  const std::vector<size_t> after = {1, 1, 62, 1, 5};
  const std::vector<int32_t> left = Prompt(70, 2), right = Prompt(70, 3);
  for (const int position : {1, 8, 16, 17, 63, 64, 65, 128}) {
    const std::vector<int32_t> past = Prompt(position);
    const std::vector<size_t> before =
        position <= 64 ? std::vector<size_t>{past.size()} : std::vector<size_t>{64, past.size() - 64};
    const auto alone = [&](const std::vector<int32_t>& tokens) {
      SequenceState state = NewState(*model, 64, 300);
      LogitsInRuns(*model, state, past, before);
      return LogitsInRuns(*model, state, tokens, after);
    };
    const std::vector<float> left_alone = alone(left), right_alone = alone(right);
    for (const bool fork_first : {false, true}) {
      SequenceState state = NewState(*model, 64, 300);
      LogitsInRuns(*model, state, past, before);
      const StateSnapshot snapshot = state.Snapshot().value();
      SequenceState fork = state.Fork(Budget(), 300).value();
      SequenceState second = fork.Fork(Budget(), 300).value();
      SequenceState& first_to_go = fork_first ? fork : state;
      SequenceState& last_to_go = fork_first ? state : fork;
      EXPECT_TRUE(SameBits(LogitsInRuns(*model, first_to_go, left, after), left_alone)) << position;
      EXPECT_TRUE(SameBits(LogitsInRuns(*model, last_to_go, right, after), right_alone)) << position;
      EXPECT_TRUE(SameBits(LogitsInRuns(*model, second, left, after), left_alone)) << position;
      SequenceState restored = SequenceState::FromSnapshot(snapshot, Budget(), 300).value();
      EXPECT_TRUE(SameBits(LogitsInRuns(*model, restored, right, after), right_alone)) << position;
    }
  }
}

TEST_P(ModelForwardTest, WithoutRunsOrLogitsIsFine) {
  std::unique_ptr<Model> model = Load();
  model->Forward({}, {});
  SequenceState state = NewState(*model);
  const std::vector<int32_t> tokens = Prompt(8);
  const SequenceRun run{&state, tokens, tokens.size()};
  model->Forward({&run, 1}, {});
  EXPECT_EQ(state.position(), 8);
}

TEST_P(ModelForwardTest, ShowsHiddenStatesInOrder) {
  class Recorder : public ForwardObserver {
   public:
    void OnHidden(absl::string_view what, absl::Span<const float> rows) override {
      names.emplace_back(what);
      sizes.push_back(rows.size());
    }
    std::vector<std::string> names;
    std::vector<size_t> sizes;
  } recorder;
  std::unique_ptr<Model> model = Load();
  SequenceState state = NewState(*model);
  const std::vector<int32_t> tokens = Prompt(5);
  const SequenceRun run{&state, tokens, tokens.size()};
  model->Forward({&run, 1}, {}, &recorder);
  std::vector<std::string> want = {"embed"};
  for (int i = 0; i < model->config().num_layers; ++i) want.push_back(absl::StrCat("layer", i));
  want.push_back("final_norm");
  EXPECT_EQ(recorder.names, want);
  for (const size_t size : recorder.sizes) EXPECT_EQ(size, 5u * model->config().hidden_size);
}

TEST_P(ModelForwardTest, FillsAStateToItsLastToken) {
  std::unique_ptr<Model> model = Load();
  SequenceState state = NewState(*model, /*max_run=*/16, /*max_tokens=*/20);
  Logits(*model, state, Prompt(16));
  Logits(*model, state, Prompt(4, 2));
  EXPECT_EQ(state.position(), 20);
}

using ModelForwardDeathTest = ModelForwardTest;
INSTANTIATE_TEST_SUITE_P(All, ModelForwardDeathTest,
                         testing::Values(std::make_tuple("recurrentgemma-tiny", WeightPrecision::kBf16)));

TEST_P(ModelForwardDeathTest, ChecksWhatCallersMustHaveChecked) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  std::unique_ptr<Model> model = Load();
  SequenceState state = NewState(*model, /*max_run=*/4, /*max_tokens=*/6);
  std::vector<float> logits(model->config().vocab_size);
  const auto forward = [&](SequenceState* of, std::vector<int32_t> tokens, size_t logits_from) {
    const SequenceRun run{of, tokens, logits_from};
    model->Forward({&run, 1}, absl::MakeSpan(logits));
  };
  EXPECT_DEATH(forward(nullptr, {5}, 0), "check failed: run.state");
  EXPECT_DEATH(forward(&state, {}, 0), "check failed: tokens >= 1");
  EXPECT_DEATH(forward(&state, {1, 2, 3, 4, 5}, 4), "check failed: tokens >= 1");  // longer than a run
  EXPECT_DEATH(forward(&state, {512}, 0), "check failed: token >= 0");             // past the vocabulary
  EXPECT_DEATH(forward(&state, {-1}, 0), "check failed: token >= 0");
  EXPECT_DEATH(forward(&state, {5, 6}, 3), "check failed: run.logits_from");
  EXPECT_DEATH(forward(&state, {5, 6}, 0), "check failed: logits.size");  // room for one row
  const std::vector<int32_t> token = {5};
  const std::vector<SequenceRun> twice = {{&state, token, 0}, {&state, token, 1}};
  EXPECT_DEATH(model->Forward(twice, absl::MakeSpan(logits)), "check failed: runs.other..state");
  forward(&state, {5, 6, 7, 8}, 3);
  EXPECT_DEATH(forward(&state, {5, 6, 7}, 2), "check failed: tokens <= ");  // beyond max_tokens

  std::unique_ptr<Model> gemma =
      LoadModel(CheckpointDirectory("gemma-tiny", TensorType::kBF16), WeightPrecision::kBf16);
  SequenceState foreign = NewState(*gemma);
  EXPECT_DEATH(forward(&foreign, {5}, 0), "check failed: layout.layers");
}

// --- Loading
// -----------------------------------------------------------------------------------------------------------

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
