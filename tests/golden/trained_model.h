// A bundled trained model (deploy/models) beside what was stored when it was exported (tests/data/trained).
//
//   BATON_ASSIGN_OR_RETURN(TrainedModel trained, TrainedModel::Load("tiny-gemma2", options));
//   BATON_ASSIGN_OR_RETURN(double perplexity, trained.Perplexity());
#pragma once

#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model.h"
#include "common/text/tokenizer.h"

namespace baton {

struct TrainedPrompt {
  std::string text;
  std::vector<int32_t> ids;  // <bos> included
  // What the float32 model answers greedily, and how far ahead of the second each token was.
  std::vector<int32_t> answer;
  std::vector<double> margins;
  std::string answer_text;
  std::vector<std::pair<int32_t, double>> first_top5;  // logits at the last prompt token
};

class TrainedModel {
 public:
  static absl::StatusOr<TrainedModel> Load(const std::string& name, const ModelOptions& options);

  Model& model() { return *model_; }
  const Tokenizer& tokenizer() const { return *tokenizer_; }
  const std::vector<TrainedPrompt>& prompts() const { return prompts_; }
  double stored_perplexity() const { return stored_perplexity_; }

  // Of the validation text, in pieces of 511 tokens after a <bos> each, as stored.
  absl::StatusOr<double> Perplexity();
  // Greedy decoding of as many tokens as the stored answer has, nothing teacher-forced.
  absl::StatusOr<std::vector<int32_t>> Answer(const TrainedPrompt& prompt);

 private:
  TrainedModel() = default;

  std::unique_ptr<Model> model_;
  std::unique_ptr<Tokenizer> tokenizer_;
  std::vector<TrainedPrompt> prompts_;
  double stored_perplexity_ = 0;
  size_t stored_tokens_ = 0;
};

}  // namespace baton
