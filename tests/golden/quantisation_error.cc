#include "tests/golden/quantisation_error.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "common/base/status_macros.h"
#include "tests/golden/golden_file.h"
#include "tests/golden/sequence.h"
#include "tests/golden/test_checkpoints.h"
#include "tests/golden/trained_model.h"

namespace baton {
namespace {

constexpr size_t kLongestPrompt = 150;

ModelOptions OptionsFor(WeightPrecision weights) {
  ModelOptions options;
  options.weights = weights;
  return options;
}

absl::StatusOr<std::vector<float>> AllLogits(Model& model, const std::vector<int32_t>& tokens) {
  const auto length = static_cast<int64_t>(tokens.size());
  BATON_ASSIGN_OR_RETURN(Sequence sequence, Sequence::Create(model, static_cast<int>(length), length));
  return sequence.FeedForAllLogits(model, tokens);
}

std::vector<double> LogProbabilities(absl::Span<const float> logits) {
  const double maximum = *std::max_element(logits.begin(), logits.end());
  double total = 0;
  for (const float logit : logits) total += std::exp(logit - maximum);
  std::vector<double> log_probabilities;
  log_probabilities.reserve(logits.size());
  for (const float logit : logits) log_probabilities.push_back(logit - maximum - std::log(total));
  return log_probabilities;
}

double KlDivergence(absl::Span<const float> want, absl::Span<const float> got) {
  const std::vector<double> p = LogProbabilities(want);
  const std::vector<double> q = LogProbabilities(got);
  double divergence = 0;
  for (size_t i = 0; i < p.size(); ++i) divergence += std::exp(p[i]) * (p[i] - q[i]);
  return std::max(divergence, 0.0);  // rounding may leave less than nothing
}

}  // namespace

absl::StatusOr<GoldenError> MeasureGoldenError(const std::string& name, WeightPrecision weights) {
  BATON_ASSIGN_OR_RETURN(const TestCheckpoint checkpoint, TestCheckpoint::Golden(name));
  BATON_ASSIGN_OR_RETURN(const auto exact, Model::Load(checkpoint.directory(), OptionsFor(WeightPrecision::kF32)));
  BATON_ASSIGN_OR_RETURN(const auto model, Model::Load(checkpoint.directory(), OptionsFor(weights)));
  BATON_ASSIGN_OR_RETURN(const GoldenFile golden, GoldenFile::Open(GoldenPath(name), model->config()));
  const size_t vocabulary = model->config().vocab_size;
  GoldenError error;
  double absolute = 0;
  double divergence = 0;
  int64_t same = 0;
  for (const GoldenPrompt& prompt : golden.prompts()) {
    if (prompt.tokens.size() > kLongestPrompt) continue;
    BATON_ASSIGN_OR_RETURN(const std::vector<float> want, AllLogits(*exact, prompt.tokens));
    BATON_ASSIGN_OR_RETURN(const std::vector<float> got, AllLogits(*model, prompt.tokens));
    for (size_t begin = 0; begin < want.size(); begin += vocabulary) {
      const auto want_row = absl::MakeConstSpan(want).subspan(begin, vocabulary);
      const auto got_row = absl::MakeConstSpan(got).subspan(begin, vocabulary);
      for (size_t i = 0; i < vocabulary; ++i) {
        const double difference = std::abs(double{got_row[i]} - want_row[i]);
        error.max_logit = std::max(error.max_logit, difference);
        absolute += difference;
      }
      const double kl = KlDivergence(want_row, got_row);
      error.max_kl = std::max(error.max_kl, kl);
      divergence += kl;
      same += ArgMax(want_row) == ArgMax(got_row) ? 1 : 0;
      ++error.positions;
    }
  }
  if (error.positions == 0) return absl::InternalError("the golden file has no short prompts");
  const auto positions = static_cast<double>(error.positions);
  error.mean_logit = absolute / (positions * static_cast<double>(vocabulary));
  error.mean_kl = divergence / positions;
  error.same_top = static_cast<double>(same) / positions;
  return error;
}

absl::StatusOr<TrainedError> MeasureTrainedError(const std::string& name, WeightPrecision weights) {
  BATON_ASSIGN_OR_RETURN(TrainedModel trained, TrainedModel::Load(name, OptionsFor(weights)));
  TrainedError error;
  error.stored_perplexity = trained.stored_perplexity();
  error.weight_bytes = trained.model().weight_bytes();
  BATON_ASSIGN_OR_RETURN(error.perplexity, trained.Perplexity());
  for (const TrainedPrompt& prompt : trained.prompts()) {
    BATON_ASSIGN_OR_RETURN(const std::vector<int32_t> answer, trained.Answer(prompt));
    error.exact += answer == prompt.answer ? 1 : 0;
    ++error.prompts;
  }
  return error;
}

}  // namespace baton
