#include "bench/length_distribution.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

constexpr double kMaxSigma = 5;

absl::StatusOr<int64_t> ParseLength(absl::string_view text) {
  int64_t length;
  if (absl::SimpleAtoi(text, &length) && length >= 1 && length <= LengthDistribution::kMaxLength) return length;
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is not a number of tokens from 1 to ", LengthDistribution::kMaxLength));
}

}  // namespace

absl::StatusOr<LengthDistribution> LengthDistribution::Parse(absl::string_view text) {
  const std::vector<absl::string_view> parts = absl::StrSplit(text, ':');
  LengthDistribution out;
  out.text_ = std::string(text);
  if (parts[0] == "fixed" && parts.size() == 2) {
    BATON_ASSIGN_OR_RETURN(out.low_, ParseLength(parts[1]));
    out.high_ = out.low_;
    return out;
  }
  if (parts[0] == "uniform" && parts.size() == 3) {
    out.kind_ = Kind::kUniform;
    BATON_ASSIGN_OR_RETURN(out.low_, ParseLength(parts[1]));
    BATON_ASSIGN_OR_RETURN(out.high_, ParseLength(parts[2]));
    if (out.low_ > out.high_) return absl::InvalidArgumentError(absl::StrCat("\"", text, "\": A is larger than B"));
    return out;
  }
  if (parts[0] == "lognormal" && parts.size() == 3) {
    out.kind_ = Kind::kLognormal;
    if (!absl::SimpleAtod(parts[1], &out.mean_) || !(out.mean_ >= 1 && out.mean_ <= kMaxLength)) {
      return absl::InvalidArgumentError(absl::StrCat("\"", parts[1], "\" is not a mean from 1 to ", kMaxLength));
    }
    if (!absl::SimpleAtod(parts[2], &out.sigma_) || !(out.sigma_ >= 0 && out.sigma_ <= kMaxSigma)) {
      return absl::InvalidArgumentError(absl::StrCat("\"", parts[2], "\" is not a sigma from 0 to ", kMaxSigma));
    }
    return out;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is none of fixed:N, uniform:A:B, lognormal:MEAN:SIGMA"));
}

int64_t LengthDistribution::Sample(Random& random) const {
  if (kind_ != Kind::kLognormal) return low_ == high_ ? low_ : random.Integer(low_, high_);
  // E[exp(mu + sigma z)] = exp(mu + sigma^2 / 2)
  const double mu = std::log(mean_) - sigma_ * sigma_ / 2;
  const double length = std::exp(mu + sigma_ * random.Normal());
  return std::llround(std::clamp<double>(length, 1, kMaxLength));
}

int64_t LengthDistribution::smallest() const { return kind_ == Kind::kLognormal ? 1 : low_; }

}  // namespace baton
