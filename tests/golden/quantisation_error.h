// What a precision of the weights costs: against float32 on the golden models (random weights, the harshest case), and
// in perplexity and answers of the trained ones.
//
//   BATON_ASSIGN_OR_RETURN(GoldenError error, MeasureGoldenError("gemma2-tiny", WeightPrecision::kInt4));
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "common/model/model.h"

namespace baton {

// Over every position of every golden prompt up to 150 tokens.
struct GoldenError {
  int64_t positions = 0;
  // |logit - float32's logit|.
  double max_logit = 0;
  double mean_logit = 0;
  // KL(float32's distribution || this one's), in nats.
  double mean_kl = 0;
  double max_kl = 0;
  // Share of positions with the same most likely token.
  double same_top = 0;
};
absl::StatusOr<GoldenError> MeasureGoldenError(const std::string& name, WeightPrecision weights);

struct TrainedError {
  double perplexity = 0;
  double stored_perplexity = 0;  // float32's
  // Prompts whose whole greedy answer is float32's.
  int64_t exact = 0;
  int64_t prompts = 0;
  int64_t weight_bytes = 0;
};
absl::StatusOr<TrainedError> MeasureTrainedError(const std::string& name, WeightPrecision weights);

}  // namespace baton
