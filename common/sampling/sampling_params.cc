// CheckSamplingParams: ranges of sampling parameters, as docs/api.md promises them.
#include <cmath>

#include "absl/container/flat_hash_set.h"
#include "absl/strings/str_cat.h"
#include "common/sampling/sampler.h"

namespace baton {
namespace {

constexpr size_t kMaxLogitBiases = 1024;
constexpr float kMaxLogitBias = 100;

class Checker {
 public:
  explicit Checker(int64_t vocab_size) : vocab_size_(vocab_size) {}

  void Check(bool valid, absl::string_view field, absl::string_view description) {
    if (!valid) violations_.push_back({absl::StrCat("sampling.", field), std::string(description)});
  }

  void CheckId(int32_t id, absl::string_view field) {
    if (id >= 0 && id < vocab_size_) return;
    Check(false, field, absl::StrCat("token id ", id, " is not in [0, ", vocab_size_, ")"));
  }

  std::vector<ParamViolation> Take() { return std::move(violations_); }

 private:
  int64_t vocab_size_;
  std::vector<ParamViolation> violations_;
};

// False for NaN, as all of these.
bool InClosed(float value, float low, float high) { return value >= low && value <= high; }
bool InHalfOpen(float value, float low, float high) { return value > low && value <= high; }

}  // namespace

std::vector<ParamViolation> CheckSamplingParams(const SamplingParams& params, int64_t vocab_size) {
  Checker checker(vocab_size);
  checker.Check(std::isfinite(params.temperature) && params.temperature >= 0, "temperature",
                "must be 0 (greedy) or a finite positive number");
  checker.Check(params.top_k >= -1, "top_k", "must be positive, or 0 or -1 for off");
  checker.Check(InHalfOpen(params.top_p, 0, 1), "top_p", "must be in (0, 1]");
  checker.Check(InClosed(params.min_p, 0, 1), "min_p", "must be in [0, 1]");
  checker.Check(InHalfOpen(params.typical_p, 0, 1), "typical_p", "must be in (0, 1]");
  checker.Check(InHalfOpen(params.repetition_penalty, 0, 2), "repetition_penalty", "must be in (0, 2]");
  checker.Check(InClosed(params.presence_penalty, -2, 2), "presence_penalty", "must be in [-2, 2]");
  checker.Check(InClosed(params.frequency_penalty, -2, 2), "frequency_penalty", "must be in [-2, 2]");
  checker.Check(params.logit_bias.size() <= kMaxLogitBiases, "logit_bias",
                absl::StrCat("must have at most ", kMaxLogitBiases, " entries"));
  if (params.logit_bias.size() <= kMaxLogitBiases) {
    absl::flat_hash_set<int32_t> seen;
    for (const auto& [id, bias] : params.logit_bias) {
      const std::string field = absl::StrCat("logit_bias[", id, "]");
      checker.CheckId(id, field);
      checker.Check(InClosed(bias, -kMaxLogitBias, kMaxLogitBias), field, "must be in [-100, 100]");
      checker.Check(seen.insert(id).second, field, "is given twice");
    }
  }
  for (size_t i = 0; i < params.allowed_token_ids.size(); ++i) {
    const int32_t id = params.allowed_token_ids[i];
    if (id >= 0 && id < vocab_size) continue;
    // One is enough: a request may hold a great many.
    checker.CheckId(id, absl::StrCat("allowed_token_ids[", i, "]"));
    break;
  }
  return checker.Take();
}

}  // namespace baton
