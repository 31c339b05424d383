#include "common/sampling/sampler.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "common/base/status_macros.h"
#include "common/sampling/philox.h"
#include "common/sampling/vocabulary_scan.h"

namespace baton {
namespace {

// Candidates are collected from the top in bands of the logit whose depth doubles: most draws end in the first. In
// units of the temperature; the last band reaches below the smallest positive double.
constexpr double kFirstBand = 4;
constexpr double kLastBand = 1024;
// Candidates first put in order by typical-p; four times as many each time these are not enough.
constexpr size_t kFirstTypicalBlock = 1024;

// Colder than this makes no difference, and would overflow.
constexpr double kMaxInverseTemperature = 1e30;

// The second word pair of Philox's counter: keeps other uses of the same seed apart from sampling.
constexpr uint32_t kSamplingStream = 0;

bool InRange(int32_t id, size_t size) { return id >= 0 && static_cast<size_t>(id) < size; }

}  // namespace

double UniformAt(uint64_t seed, int64_t position) {
  const auto low = [](uint64_t value) { return static_cast<uint32_t>(value); };
  const auto high = [](uint64_t value) { return static_cast<uint32_t>(value >> 32); };
  const uint64_t counter = static_cast<uint64_t>(position);
  const std::array<uint32_t, 4> random =
      Philox4x32({low(counter), high(counter), kSamplingStream, 0}, {low(seed), high(seed)});
  const uint64_t bits = static_cast<uint64_t>(random[1]) << 32 | random[0];
  return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

void TokenHistory::AddPrompt(absl::Span<const int32_t> tokens) {
  for (const int32_t token : tokens) counts_[token].in_prompt = true;
}

void TokenHistory::AddOutput(int32_t token) { ++counts_[token].output; }

int32_t Sampler::Sample(absl::Span<const float> logits, const SamplingParams& params, const TokenHistory& history,
                        absl::Span<const int32_t> masked_ids, int64_t position) {
  BATON_CHECK(!logits.empty());
  Adjust(logits, params, history, masked_ids);
  if (largest_.id < 0 && !masked_ids.empty()) Adjust(logits, params, history, {});
  if (largest_.id < 0) return LowestAllowed(params, logits.size());
  if (params.temperature == 0) return largest_.id;

  inverse_temperature_ = std::min(1.0 / params.temperature, kMaxInverseTemperature);
  StartCandidates(params);
  if (params.typical_p < 1) KeepTypical(params.typical_p);
  if (params.top_p < 1 || params.min_p > 0) KeepMostProbable(params.top_p, params.min_p);
  return Draw(UniformAt(params.seed, position));
}

int32_t Sampler::LowestAllowed(const SamplingParams& params, size_t vocab_size) {
  int32_t lowest = -1;
  for (const int32_t id : params.allowed_token_ids) {
    if (InRange(id, vocab_size) && (lowest < 0 || id < lowest)) lowest = id;
  }
  return std::max(lowest, 0);
}

void Sampler::Adjust(absl::Span<const float> logits, const SamplingParams& params, const TokenHistory& history,
                     absl::Span<const int32_t> masked_ids) {
  const bool penalties =
      params.repetition_penalty != 1 || params.presence_penalty != 0 || params.frequency_penalty != 0;
  if (params.logit_bias.empty() && params.allowed_token_ids.empty() && !penalties && masked_ids.empty()) {
    scores_ = logits;
  } else {
    AdjustCopy(logits, params, history, masked_ids);
    scores_ = work_;
  }
  largest_ = FindLargest(scores_);
}

void Sampler::AdjustCopy(absl::Span<const float> logits, const SamplingParams& params, const TokenHistory& history,
                         absl::Span<const int32_t> masked_ids) {
  work_.resize(logits.size());
  CleanLogits(logits, absl::MakeSpan(work_));
  for (const auto& [id, bias] : params.logit_bias) {
    if (InRange(id, work_.size())) work_[id] = CleanLogit(work_[id] + bias);
  }
  if (!params.allowed_token_ids.empty()) {
    allowed_.clear();
    for (const int32_t id : params.allowed_token_ids) {
      if (InRange(id, work_.size())) allowed_.push_back({work_[id], id});
    }
    std::fill(work_.begin(), work_.end(), kExcludedLogit);
    for (const ScoredToken& token : allowed_) work_[token.id] = token.logit;
  }
  if (params.repetition_penalty != 1 || params.presence_penalty != 0 || params.frequency_penalty != 0) {
    for (const auto& [id, count] : history.counts_) {
      if (!InRange(id, work_.size())) continue;
      float& logit = work_[id];
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
      if (count.output > 0) logit -= params.presence_penalty + params.frequency_penalty * count.output;
      logit = CleanLogit(logit);
    }
  }
  for (const int32_t id : masked_ids) {
    if (InRange(id, work_.size())) work_[id] = kExcludedLogit;
  }
}

Sampler::Candidate Sampler::MakeCandidate(ScoredToken token) const {
  return {token, std::exp((static_cast<double>(token.logit) - largest_.logit) * inverse_temperature_)};
}

void Sampler::StartCandidates(const SamplingParams& params) {
  candidates_.clear();
  bands_left_ = params.top_k <= 0 || static_cast<size_t>(params.top_k) >= scores_.size();
  if (bands_left_) {
    band_ = 0;
    total_ = SumExp(scores_, largest_.logit, static_cast<float>(inverse_temperature_));
    return;
  }
  TopK(scores_, params.top_k, top_);
  total_ = 0;
  for (const ScoredToken& token : top_) {
    candidates_.push_back(MakeCandidate(token));
    total_ += candidates_.back().weight;
  }
}

bool Sampler::HasCandidate(size_t rank) {
  while (rank >= candidates_.size() && bands_left_) AddBand();
  return rank < candidates_.size();
}

void Sampler::AddBand() {
  // Never reaches excluded logits, which are -inf.
  const auto depth = [&](double band) {
    constexpr double kLowest = std::numeric_limits<float>::lowest();
    return static_cast<float>(std::max(largest_.logit - band / inverse_temperature_, kLowest));
  };
  const float above = depth(band_);
  const float high = band_ == 0 ? above : std::nextafter(above, kExcludedLogit);
  band_ = band_ == 0 ? kFirstBand : 2 * band_;
  const float low = depth(band_);
  bands_left_ = band_ < kLastBand;
  const size_t begin = candidates_.size();
  for (size_t id = NextBetween(scores_, 0, low, high); id < scores_.size();
       id = NextBetween(scores_, id + 1, low, high)) {
    candidates_.push_back(MakeCandidate({CleanLogit(scores_[id]), static_cast<int32_t>(id)}));
  }
  std::sort(candidates_.begin() + begin, candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return IsBefore(a.token, b.token); });
}

void Sampler::KeepTypical(double typical_p) {
  if (bands_left_) {
    for (size_t id = 0; id < scores_.size(); ++id) {
      const float logit = CleanLogit(scores_[id]);
      if (logit != kExcludedLogit) candidates_.push_back(MakeCandidate({logit, static_cast<int32_t>(id)}));
    }
    bands_left_ = false;
  }
  double total = 0;
  double weighted = 0;  // sum of weight * log weight
  for (const Candidate& candidate : candidates_) {
    total += candidate.weight;
    if (candidate.weight > 0) weighted += candidate.weight * std::log(candidate.weight);
  }
  // Surprise is log(total) - log(weight), and its mean, the entropy, log(total) - weighted / total.
  const double mean_log_weight = weighted / total;
  for (Candidate& candidate : candidates_) {
    candidate.atypicality = std::abs(std::log(candidate.weight) - mean_log_weight);
  }
  const auto more_typical = [](const Candidate& a, const Candidate& b) {
    return a.atypicality != b.atypicality ? a.atypicality < b.atypicality : IsBefore(a.token, b.token);
  };
  size_t kept = 0;
  size_t sorted = 0;
  size_t block = kFirstTypicalBlock;
  double mass = 0;
  while (kept < candidates_.size() && mass < typical_p * total) {
    if (kept == sorted) {
      const auto begin = candidates_.begin() + sorted;
      const auto end = begin + std::min(block, candidates_.size() - sorted);
      if (end != candidates_.end()) std::nth_element(begin, end, candidates_.end(), more_typical);
      std::sort(begin, end, more_typical);
      sorted = end - candidates_.begin();
      block *= 4;
    }
    mass += candidates_[kept++].weight;
  }
  candidates_.resize(kept);
  std::sort(candidates_.begin(), candidates_.end(),
            [](const Candidate& a, const Candidate& b) { return IsBefore(a.token, b.token); });
  total_ = 0;
  for (const Candidate& candidate : candidates_) total_ += candidate.weight;
}

void Sampler::KeepMostProbable(double top_p, double min_p) {
  double mass = 0;
  size_t kept = 0;
  for (; HasCandidate(kept); ++kept) {
    const double weight = candidates_[kept].weight;
    if (kept > 0 && (mass >= top_p * total_ || weight < min_p * candidates_[0].weight)) break;
    mass += weight;
  }
  candidates_.resize(kept);
  bands_left_ = false;
  total_ = mass;
}

int32_t Sampler::Draw(double uniform) {
  const double target = uniform * total_;
  int32_t drawn = -1;
  double cumulative = 0;
  for (size_t rank = 0; HasCandidate(rank); ++rank) {
    const Candidate& candidate = candidates_[rank];
    // What rounding leaves of the target past the last candidate falls to the last one that has a probability.
    if (drawn >= 0 && candidate.weight == 0) break;
    drawn = candidate.token.id;
    cumulative += candidate.weight;
    if (cumulative > target) break;
  }
  return drawn;
}

}  // namespace baton
