#include "tests/golden/trained_model.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"
#include "tests/golden/sequence.h"

namespace baton {
namespace {

constexpr size_t kPieceTokens = 511;

std::string DataPath(const std::string& name) { return absl::StrCat(BATON_TEST_DATA, "/trained/", name); }

absl::StatusOr<nlohmann::json> ReadJson(const std::string& name) {
  BATON_ASSIGN_OR_RETURN(const std::string text, ReadFile(DataPath(name)));
  nlohmann::json json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (json.is_discarded()) return absl::InvalidArgumentError(absl::StrCat(DataPath(name), ": is not JSON"));
  return json;
}

// -log of the probability that `logits` give to `token`.
double Surprise(absl::Span<const float> logits, int32_t token) {
  const double maximum = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float logit : logits) total += std::exp(logit - maximum);
  return maximum + std::log(total) - logits[token];
}

}  // namespace

absl::StatusOr<TrainedModel> TrainedModel::Load(const std::string& name, const ModelOptions& options) {
  TrainedModel trained;
  BATON_ASSIGN_OR_RETURN(trained.model_, Model::Load(absl::StrCat(BATON_BUNDLED_MODELS, "/", name), options));
  BATON_ASSIGN_OR_RETURN(trained.tokenizer_, Tokenizer::FromModel(trained.model_->tokenizer()));
  BATON_ASSIGN_OR_RETURN(const nlohmann::json prompts, ReadJson("prompts.json"));
  BATON_ASSIGN_OR_RETURN(const nlohmann::json expected, ReadJson("expected.json"));
  const nlohmann::json& stored = expected["models"][name];
  trained.stored_perplexity_ = stored["perplexity"];
  trained.stored_tokens_ = stored["tokens"];
  for (const nlohmann::json& prompt : prompts["prompts"]) {
    const nlohmann::json& result = stored["results"][prompt["id"].get<size_t>()];
    BATON_CHECK(result["id"] == prompt["id"]);
    TrainedPrompt& added = trained.prompts_.emplace_back();
    added.text = prompt["text"];
    added.ids = prompt["ids"].get<std::vector<int32_t>>();
    added.answer = result["tokens"].get<std::vector<int32_t>>();
    added.margins = result["margins"].get<std::vector<double>>();
    added.answer_text = result["text"];
    for (const nlohmann::json& top : result["first_top5"]) added.first_top5.emplace_back(top[0], top[1]);
  }
  return trained;
}

absl::StatusOr<double> TrainedModel::Perplexity() {
  BATON_ASSIGN_OR_RETURN(const std::string text, ReadFile(DataPath("validation.txt")));
  BATON_ASSIGN_OR_RETURN(const std::vector<int32_t> tokens, tokenizer_->Encode(text));
  if (tokens.size() != stored_tokens_) {
    return absl::InternalError(absl::StrCat("the text has ", tokens.size(), " tokens, expected ", stored_tokens_));
  }
  double sum = 0;
  const size_t vocabulary = model_->config().vocab_size;
  for (size_t at = 0; at < tokens.size(); at += kPieceTokens) {
    std::vector<int32_t> input = {tokenizer_->bos_id()};
    input.insert(input.end(), tokens.begin() + at, tokens.begin() + std::min(tokens.size(), at + kPieceTokens));
    BATON_ASSIGN_OR_RETURN(Sequence sequence, Sequence::Create(*model_, static_cast<int>(input.size()),
                                                               static_cast<int64_t>(input.size())));
    const std::vector<float> logits = sequence.FeedForAllLogits(*model_, input);
    for (size_t i = 0; i + 1 < input.size(); ++i) {
      sum += Surprise(absl::MakeSpan(logits).subspan(i * vocabulary, vocabulary), input[i + 1]);
    }
  }
  return std::exp(sum / static_cast<double>(tokens.size()));
}

absl::StatusOr<std::vector<int32_t>> TrainedModel::Answer(const TrainedPrompt& prompt) {
  BATON_ASSIGN_OR_RETURN(Sequence sequence,
                         Sequence::Create(*model_, static_cast<int>(prompt.ids.size()),
                                          static_cast<int64_t>(prompt.ids.size() + prompt.answer.size())));
  std::vector<int32_t> answer = {ArgMax(sequence.Feed(*model_, prompt.ids))};
  while (answer.size() < prompt.answer.size()) {
    answer.push_back(ArgMax(sequence.Feed(*model_, {&answer.back(), 1})));
  }
  return answer;
}

}  // namespace baton
