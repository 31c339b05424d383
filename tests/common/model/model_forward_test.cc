// What Model promises its callers, on small synthetic checkpoints of all three families. That the numbers are the right
// ones is tests/golden's business.
#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include <gtest/gtest.h>

#include "absl/strings/str_cat.h"
#include "common/model/model.h"
#include "common/state/state_pieces.h"
#include "tests/common/model/small_models.h"

namespace baton {
namespace {

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

}  // namespace
}  // namespace baton
