// How many tokens a request has, as a flag says it:
//   fixed:N              always N
//   uniform:A:B          every length of [A, B] alike
//   lognormal:MEAN:SIGMA mean MEAN tokens; SIGMA is the standard deviation of the logarithm
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "bench/random.h"

namespace baton {

class LengthDistribution {
 public:
  // INVALID_ARGUMENT saying what is wrong. Lengths are in [1, kMaxLength].
  static absl::StatusOr<LengthDistribution> Parse(absl::string_view text);

  int64_t Sample(Random& random) const;
  // The smallest length there is.
  int64_t smallest() const;
  const std::string& text() const { return text_; }

  static constexpr int64_t kMaxLength = 10'000'000;

 private:
  enum class Kind { kFixed, kUniform, kLognormal };
  Kind kind_ = Kind::kFixed;
  int64_t low_ = 1;
  int64_t high_ = 1;
  double mean_ = 1;
  double sigma_ = 0;
  std::string text_;
};

}  // namespace baton
