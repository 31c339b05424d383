// The bundled trained models give the answers, logits and perplexity that were computed when they were exported.
#include <gtest/gtest.h>

#include <string>
#include <tuple>
#include <vector>

#include "absl/types/optional.h"
#include "common/model/model.h"
#include "common/text/tokenizer.h"
#include "tests/golden/sequence.h"
#include "tests/golden/trained_model.h"

namespace baton {
namespace {

// How near the stored float32 figures a mode comes.
struct Tolerance {
  double margin;           // greedy tokens are compared where the stored margin is larger
  double logit;            // of the five best at the last prompt token
  double perplexity;       // relative
  double tokens_compared;  // at least this share of all greedy tokens is clear of near ties
};

Tolerance ToleranceOf(WeightPrecision weights) {
  if (weights == WeightPrecision::kF32) {
    return {.margin = 1e-3, .logit = 5e-4, .perplexity = 1e-3, .tokens_compared = 0.99};
  }
  return {.margin = 0.4, .logit = 0.4, .perplexity = 0.01, .tokens_compared = 0.7};
}

class TrainedModelTest : public testing::TestWithParam<std::tuple<std::string, WeightPrecision>> {
 protected:
  void SetUp() override {
    const auto& [name, weights] = GetParam();
    ModelOptions options;
    options.weights = weights;
    options.threads = 2;
    absl::StatusOr<TrainedModel> trained = TrainedModel::Load(name, options);
    ASSERT_TRUE(trained.ok()) << trained.status();
    trained_ = *std::move(trained);
    tolerance_ = ToleranceOf(weights);
  }

  Model& model() { return trained_->model(); }
  const Tokenizer& tokenizer() { return trained_->tokenizer(); }

  absl::optional<TrainedModel> trained_;
  Tolerance tolerance_;
};

TEST_P(TrainedModelTest, AnswersThePrompts) {
  int64_t tokens = 0;
  int64_t compared = 0;
  for (const TrainedPrompt& prompt : trained_->prompts()) {
    SCOPED_TRACE(prompt.text);
    std::vector<int32_t> ids = {tokenizer().bos_id()};
    const auto encoded = tokenizer().Encode(prompt.text, {.parse_special = true});
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    ids.insert(ids.end(), encoded->begin(), encoded->end());
    ASSERT_EQ(ids, prompt.ids);

    const std::vector<int32_t>& greedy = prompt.answer;
    absl::StatusOr<Sequence> sequence =
        Sequence::Create(model(), static_cast<int>(ids.size()), static_cast<int64_t>(ids.size() + greedy.size()));
    ASSERT_TRUE(sequence.ok()) << sequence.status();
    std::vector<float> logits = sequence->Feed(model(), ids);
    for (const auto& [token, logit] : prompt.first_top5) EXPECT_NEAR(logits[token], logit, tolerance_.logit);
    // Along the stored tokens, so that one near tie does not end the comparison.
    for (size_t step = 0; step < greedy.size(); ++step) {
      if (step > 0) logits = sequence->Feed(model(), {&greedy[step - 1], 1});
      ++tokens;
      if (prompt.margins[step] <= tolerance_.margin) continue;
      ++compared;
      EXPECT_EQ(ArgMax(logits), greedy[step]) << "step " << step << ", margin " << prompt.margins[step];
    }
    EXPECT_EQ(tokenizer().Decode(greedy, /*keep_special=*/true), prompt.answer_text);
  }
  EXPECT_GE(compared, tolerance_.tokens_compared * tokens);
}

TEST_P(TrainedModelTest, HasThePerplexity) {
  const absl::StatusOr<double> perplexity = trained_->Perplexity();
  ASSERT_TRUE(perplexity.ok()) << perplexity.status();
  const double want = trained_->stored_perplexity();
  EXPECT_NEAR(*perplexity, want, want * tolerance_.perplexity);
}

// "<bos>What is the capital of France?" as a chat turn, with nothing teacher-forced.
TEST_P(TrainedModelTest, KnowsTheCapitalOfFrance) {
  const auto prompt = tokenizer().Encode(
      "<bos><start_of_turn>user\nWhat is the capital of France?<end_of_turn>\n<start_of_turn>model\n",
      {.parse_special = true});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  absl::StatusOr<Sequence> sequence = Sequence::Create(model(), static_cast<int>(prompt->size()), 100);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  std::vector<int32_t> answer = {ArgMax(sequence->Feed(model(), *prompt))};
  while (answer.size() < 40 && !tokenizer().IsSpecial(answer.back())) {
    answer.push_back(ArgMax(sequence->Feed(model(), {&answer.back(), 1})));
  }
  EXPECT_EQ(tokenizer().Decode(answer), "The capital of France is Paris.");
}

std::string CaseName(const testing::TestParamInfo<TrainedModelTest::ParamType>& info) {
  std::string name = std::get<0>(info.param) + "_" + std::string(WeightPrecisionName(std::get<1>(info.param)));
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, TrainedModelTest,
                         testing::Combine(testing::Values("tiny-gemma2", "tiny-recurrentgemma"),
                                          testing::Values(WeightPrecision::kF32, WeightPrecision::kBf16)),
                         CaseName);

}  // namespace
}  // namespace baton
