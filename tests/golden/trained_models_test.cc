// The bundled trained models give the answers, logits and perplexity that were computed when they were exported.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <tuple>
#include <vector>

#include "common/base/mapped_file.h"
#include "common/model/model.h"
#include "common/text/tokenizer.h"
#include "tests/golden/sequence.h"
#include "tests/golden/test_checkpoints.h"

namespace baton {
namespace {

nlohmann::json ReadJson(const std::string& name) {
  std::ifstream file(std::string(BATON_TEST_DATA) + "/trained/" + name);
  return nlohmann::json::parse(file);
}

// How near the stored float32 figures a mode comes.
struct Tolerance {
  double margin;           // greedy tokens are compared where the stored margin is larger
  double logit;            // of the five best at the last prompt token
  double perplexity;       // relative
  double tokens_compared;  // at least this share of all greedy tokens is clear of near ties
};

Tolerance ToleranceOf(ComputeMode compute) {
  if (compute == ComputeMode::kF32) return {.margin = 1e-3, .logit = 5e-4, .perplexity = 1e-3, .tokens_compared = 0.99};
  return {.margin = 0.4, .logit = 0.4, .perplexity = 0.01, .tokens_compared = 0.7};
}

class TrainedModelTest : public testing::TestWithParam<std::tuple<std::string, ComputeMode>> {
 protected:
  void SetUp() override {
    const auto& [name, compute] = GetParam();
    ModelOptions options;
    options.compute = compute;
    options.threads = 2;
    absl::StatusOr<std::unique_ptr<Model>> model = Model::Load(TestCheckpoint::Bundled(name).directory(), options);
    ASSERT_TRUE(model.ok()) << model.status();
    model_ = std::move(*model);
    absl::StatusOr<std::unique_ptr<Tokenizer>> tokenizer = Tokenizer::FromModel(model_->tokenizer());
    ASSERT_TRUE(tokenizer.ok()) << tokenizer.status();
    tokenizer_ = std::move(*tokenizer);
    expected_ = ReadJson("expected.json")["models"][name];
    tolerance_ = ToleranceOf(compute);
  }

  // Mean negative log likelihood of tokens, with <bos> before every `piece` of them.
  double NegativeLogLikelihood(const std::vector<int32_t>& tokens, size_t piece) {
    double sum = 0;
    const size_t vocabulary = model_->config().vocab_size;
    for (size_t at = 0; at < tokens.size(); at += piece) {
      std::vector<int32_t> input = {tokenizer_->bos_id()};
      input.insert(input.end(), tokens.begin() + at, tokens.begin() + std::min(tokens.size(), at + piece));
      absl::StatusOr<Sequence> sequence =
          Sequence::Create(*model_, static_cast<int>(input.size()), static_cast<int64_t>(input.size()));
      EXPECT_TRUE(sequence.ok()) << sequence.status();
      const std::vector<float> logits = sequence->FeedForAllLogits(*model_, input);
      for (size_t i = 0; i + 1 < input.size(); ++i) {
        const float* row = logits.data() + i * vocabulary;
        const double maximum = *std::max_element(row, row + vocabulary);
        double total = 0;
        for (size_t v = 0; v < vocabulary; ++v) total += std::exp(row[v] - maximum);
        sum += maximum + std::log(total) - row[input[i + 1]];
      }
    }
    return sum / static_cast<double>(tokens.size());
  }

  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  nlohmann::json expected_;
  Tolerance tolerance_;
};

TEST_P(TrainedModelTest, AnswersThePrompts) {
  const nlohmann::json prompts = ReadJson("prompts.json");
  int64_t tokens = 0;
  int64_t compared = 0;
  for (const nlohmann::json& prompt : prompts["prompts"]) {
    const std::string text = prompt["text"];
    SCOPED_TRACE(text);
    std::vector<int32_t> ids = {tokenizer_->bos_id()};
    const auto encoded = tokenizer_->Encode(text, {.parse_special = true});
    ASSERT_TRUE(encoded.ok()) << encoded.status();
    ids.insert(ids.end(), encoded->begin(), encoded->end());
    ASSERT_EQ(ids, prompt["ids"].get<std::vector<int32_t>>());

    const nlohmann::json& want = expected_["results"][prompt["id"].get<size_t>()];
    ASSERT_EQ(want["id"], prompt["id"]);
    const auto greedy = want["tokens"].get<std::vector<int32_t>>();
    const auto margins = want["margins"].get<std::vector<double>>();
    absl::StatusOr<Sequence> sequence =
        Sequence::Create(*model_, static_cast<int>(ids.size()), static_cast<int64_t>(ids.size() + greedy.size()));
    ASSERT_TRUE(sequence.ok()) << sequence.status();
    std::vector<float> logits = sequence->Feed(*model_, ids);
    for (const nlohmann::json& top : want["first_top5"]) {
      EXPECT_NEAR(logits[top[0].get<size_t>()], top[1].get<double>(), tolerance_.logit);
    }
    // Along the stored tokens, so that one near tie does not end the comparison.
    for (size_t step = 0; step < greedy.size(); ++step) {
      if (step > 0) logits = sequence->Feed(*model_, {&greedy[step - 1], 1});
      ++tokens;
      if (margins[step] <= tolerance_.margin) continue;
      ++compared;
      EXPECT_EQ(ArgMax(logits), greedy[step]) << "step " << step << ", margin " << margins[step];
    }
    EXPECT_EQ(tokenizer_->Decode(greedy, /*keep_special=*/true), want["text"].get<std::string>());
  }
  EXPECT_GE(compared, tolerance_.tokens_compared * tokens);
}

TEST_P(TrainedModelTest, HasThePerplexity) {
  const auto text = ReadFile(std::string(BATON_TEST_DATA) + "/trained/validation.txt");
  ASSERT_TRUE(text.ok()) << text.status();
  const auto tokens = tokenizer_->Encode(*text);
  ASSERT_TRUE(tokens.ok()) << tokens.status();
  ASSERT_EQ(tokens->size(), expected_["tokens"].get<size_t>());
  const double perplexity = std::exp(NegativeLogLikelihood(*tokens, 511));
  const double want = expected_["perplexity"];
  EXPECT_NEAR(perplexity, want, want * tolerance_.perplexity);
}

// "<bos>What is the capital of France?" as a chat turn, with nothing teacher-forced.
TEST_P(TrainedModelTest, KnowsTheCapitalOfFrance) {
  const auto prompt = tokenizer_->Encode(
      "<bos><start_of_turn>user\nWhat is the capital of France?<end_of_turn>\n<start_of_turn>model\n",
      {.parse_special = true});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  absl::StatusOr<Sequence> sequence = Sequence::Create(*model_, static_cast<int>(prompt->size()), 100);
  ASSERT_TRUE(sequence.ok()) << sequence.status();
  std::vector<int32_t> answer = {ArgMax(sequence->Feed(*model_, *prompt))};
  while (answer.size() < 40 && !tokenizer_->IsSpecial(answer.back())) {
    answer.push_back(ArgMax(sequence->Feed(*model_, {&answer.back(), 1})));
  }
  EXPECT_EQ(tokenizer_->Decode(answer), "The capital of France is Paris.");
}

std::string CaseName(const testing::TestParamInfo<TrainedModelTest::ParamType>& info) {
  std::string name = std::get<0>(info.param) + "_compute_" + std::string(ComputeModeName(std::get<1>(info.param)));
  for (char& c : name) c = c == '-' ? '_' : c;
  return name;
}

INSTANTIATE_TEST_SUITE_P(All, TrainedModelTest,
                         testing::Combine(testing::Values("tiny-gemma2", "tiny-recurrentgemma"),
                                          testing::Values(ComputeMode::kF32, ComputeMode::kBF16)),
                         CaseName);

}  // namespace
}  // namespace baton
