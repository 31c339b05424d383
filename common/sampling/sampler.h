// Logits -> token. Pure functions of (logits, history, parameters, position): the same request gives the same tokens on
// any worker, in any batch, after any failover.
//
// Order: logit bias and allowed ids; repetition, presence and frequency penalties; (min_new_tokens: stop ids masked);
// temperature; top-k; typical-p; top-p; min-p; one draw by inverse CDF over the survivors in descending order of
// probability (ties: lowest id), with a uniform that is a counter-based function of (seed, position).
// Temperature 0: the largest logit after bias and penalties, lowest id on ties.
//
// Log probabilities are those of softmax over the soft-capped logits as the model gives them, before all of the above.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/types/span.h"

namespace baton {

struct SamplingParams {
  float temperature = 1.0f;         // >= 0; 0: greedy
  int32_t top_k = 0;                // <= 0: off
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1]
  float typical_p = 1.0f;           // (0, 1]
  float repetition_penalty = 1.0f;  // (0, 2]; prompt and output
  float presence_penalty = 0.0f;    // [-2, 2]; output only
  float frequency_penalty = 0.0f;   // [-2, 2]; output only
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::vector<int32_t> allowed_token_ids;  // empty: all
  uint64_t seed = 0;
};

// One problem, named by field as in baton.v1 ("sampling.top_p").
struct ParamViolation {
  std::string field;
  std::string description;
};
// All violations; empty when the parameters are valid. NaN and infinities are violations.
std::vector<ParamViolation> CheckSamplingParams(const SamplingParams& params, int64_t vocab_size);

// Uniform in [0, 1) with 53 bits: a hash of (seed, position), nothing else (Philox4x32-10).
double UniformAt(uint64_t seed, int64_t position);

// Token counts that penalties need. Add each token once.
class TokenHistory {
 public:
  void AddPrompt(absl::Span<const int32_t> tokens);
  void AddOutput(int32_t token);

 private:
  friend class Sampler;
  struct Count {
    bool in_prompt = false;
    int32_t output = 0;
  };
  absl::flat_hash_map<int32_t, Count> counts_;
};

struct TokenLogprob {
  float logprob = 0;
  bool is_greedy = false;
  std::vector<std::pair<int32_t, float>> top;  // descending
};

// Log probability of `token` and of the `top` most likely ones under softmax(logits).
TokenLogprob ComputeLogprob(absl::Span<const float> logits, int32_t token, int top);

// Reusable scratch; one per engine thread. Not thread-safe.
class Sampler {
 public:
  // `masked_ids`: cannot be sampled (stop ids while fewer than min_new_tokens were made). `position`: absolute position
  // of the token being sampled. `logits` is not modified.
  int32_t Sample(absl::Span<const float> logits, const SamplingParams& params, const TokenHistory& history,
                 absl::Span<const int32_t> masked_ids, int64_t position);

 private:
  std::vector<float> work_;
  std::vector<std::pair<float, int32_t>> candidates_;
};

}  // namespace baton
