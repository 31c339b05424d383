// Logits -> token. Pure functions of (logits, history, parameters, position): the same request gives the same tokens on
// any worker, in any batch, after any failover.
//
// Steps, in this order:
//   1. Logit bias is added; ids not in allowed_token_ids (if any) are excluded.
//   2. Repetition penalty (prompt and output tokens): positive logits are divided by it, others multiplied. Then
//      presence_penalty (once) and frequency_penalty (times the count) are subtracted for output tokens.
//   3. Masked ids (stop ids while fewer than min_new_tokens were made) are excluded.
//   4. Temperature 0: the largest logit, lowest id on ties. Else logits are divided by the temperature.
//   5. top-k: the k largest (ties: lowest id).
//   6. typical-p: candidates in order of | -log p - entropy | (ties: larger logit, then lowest id), until their
//      probabilities add up to typical_p.
//   7. top-p: the most probable candidates while those before add up to less than top_p.
//   8. min-p: those at least min_p times as probable as the most probable one left.
//   9. One draw by inverse CDF over the survivors in descending order (ties: lowest id), with UniformAt(seed,
//   position).
// Probabilities are renormalised after steps 5, 6 and 8. Sums are of doubles, in an order that depends on nothing but
// the logits: of descending probability once there is such an order, else of ids.
//
// Never undefined: NaN logits count as -inf and are never drawn, +inf as the largest float. Where masked ids leave
// nothing to draw, the mask is ignored (the sequence may end early rather than emit a forbidden token); where still
// nothing is left, the lowest allowed id is taken (0 when all are allowed). Ids out of range are ignored.
//
// Log probabilities are those of softmax over the soft-capped logits as the model gives them, before all of the above.
//
//   Sampler sampler;
//   int32_t id = sampler.Sample(logits, params, history, stop_ids, position);
//   history.AddOutput(id);
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/types/span.h"
#include "common/sampling/top_k.h"
#include "common/sampling/vocabulary_scan.h"

namespace baton {

struct SamplingParams {
  float temperature = 1.0f;         // >= 0; 0: greedy
  int32_t top_k = 0;                // 0 or -1: off
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1]
  float typical_p = 1.0f;           // (0, 1]
  float repetition_penalty = 1.0f;  // (0, 2]; prompt and output
  float presence_penalty = 0.0f;    // [-2, 2]; output only
  float frequency_penalty = 0.0f;   // [-2, 2]; output only
  // Distinct ids, each bias in [-100, 100]; at most 1024.
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

// Log probability of `token` and of the `top` most likely ones under softmax(logits); never NaN. An id out of range has
// log probability -inf.
TokenLogprob ComputeLogprob(absl::Span<const float> logits, int32_t token, int top);

// Reusable scratch; one per engine thread. Not thread-safe.
class Sampler {
 public:
  // `masked_ids`: cannot be sampled (stop ids while fewer than min_new_tokens were made). `position`: absolute position
  // of the token being sampled. `logits` is not modified and must not be empty.
  int32_t Sample(absl::Span<const float> logits, const SamplingParams& params, const TokenHistory& history,
                 absl::Span<const int32_t> masked_ids, int64_t position);

 private:
  struct Candidate {
    ScoredToken token;
    double weight = 0;       // exp((logit - largest) / temperature)
    double atypicality = 0;  // | -log p - entropy |
  };

  // Steps 1 to 3: scores_ and largest_.
  void Adjust(absl::Span<const float> logits, const SamplingParams& params, const TokenHistory& history,
              absl::Span<const int32_t> masked_ids);
  void AdjustCopy(absl::Span<const float> logits, const SamplingParams& params, const TokenHistory& history,
                  absl::Span<const int32_t> masked_ids);
  static int32_t LowestAllowed(const SamplingParams& params, size_t vocab_size);
  // Step 5. Without top-k, candidates are collected as they are asked for.
  void StartCandidates(const SamplingParams& params);
  Candidate MakeCandidate(ScoredToken token) const;
  // Whether there is a candidate of this rank; makes sure that candidates_ holds it.
  bool HasCandidate(size_t rank);
  void AddBand();
  void KeepTypical(double typical_p);
  void KeepMostProbable(double top_p, double min_p);
  int32_t Draw(double uniform);

  // [vocab]: logits after steps 1 to 3. The caller's where these change nothing, else work_.
  absl::Span<const float> scores_;
  std::vector<float> work_;
  LargestLogit largest_;  // of scores_
  double inverse_temperature_ = 1;
  // The most probable survivors in order; more of scores_ follow while bands_left_.
  std::vector<Candidate> candidates_;
  bool bands_left_ = false;
  double band_ = 0;   // how far below the largest logit the candidates reach, in units of the temperature
  double total_ = 0;  // weight of all survivors
  std::vector<ScoredToken> top_;
  std::vector<ScoredToken> allowed_;
};

}  // namespace baton
