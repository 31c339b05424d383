#include "common/sampling/vocabulary_scan.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace baton {
namespace {

constexpr size_t kLanes = 16;
// Near the smallest normal float's logarithm.
constexpr float kMinExponent = -87.0f;

// exp(x) for kMinExponent <= x <= 0, to 2 units in the last place: 2^n exp(r) with |r| <= ln(2) / 2 and the polynomial
// of Cephes' expf.
inline float ExpNonPositive(float x) {
  constexpr float kLog2E = 1.44269504f;
  // Adding and subtracting 1.5 * 2^23 rounds to the nearest integer.
  constexpr float kRound = 12582912.0f;
  const float n = (x * kLog2E + kRound) - kRound;
  // ln(2) in two parts; n times the first is exact.
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const float exp_r = (p * r * r + r) + 1.0f;
  return exp_r * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

inline float Term(float logit, float maximum, float scale) {
  const float x = (logit - maximum) * scale;
  const float term = ExpNonPositive(x > kMinExponent ? x : kMinExponent);
  return x > kMinExponent ? term : 0.0f;
}

}  // namespace

float CleanLogit(float logit) {
  // The comparison is false for NaN.
  return logit >= kExcludedLogit ? std::min(logit, std::numeric_limits<float>::max()) : kExcludedLogit;
}

void CleanLogits(absl::Span<const float> from, absl::Span<float> to) {
  const float* source = from.data();
  float* target = to.data();
  for (size_t i = 0; i < from.size(); ++i) target[i] = CleanLogit(source[i]);
}

float MaxLogit(absl::Span<const float> logits) {
  const float* data = logits.data();
  const size_t whole = logits.size() / kLanes * kLanes;
  float lanes[kLanes];
  std::fill(lanes, lanes + kLanes, kExcludedLogit);
  for (size_t i = 0; i < whole; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      lanes[lane] = data[i + lane] > lanes[lane] ? data[i + lane] : lanes[lane];
    }
  }
  float maximum = *std::max_element(lanes, lanes + kLanes);
  for (size_t i = whole; i < logits.size(); ++i) maximum = std::max(maximum, data[i]);
  return maximum;
}

double SumExp(absl::Span<const float> logits, float maximum, float scale) {
  const float* data = logits.data();
  const size_t whole = logits.size() / kLanes * kLanes;
  double lanes[kLanes] = {};
  for (size_t i = 0; i < whole; i += kLanes) {
    float terms[kLanes];
    for (size_t lane = 0; lane < kLanes; ++lane) terms[lane] = Term(data[i + lane], maximum, scale);
    for (size_t lane = 0; lane < kLanes; ++lane) lanes[lane] += terms[lane];
  }
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  for (size_t i = whole; i < logits.size(); ++i) sum += Term(data[i], maximum, scale);
  return sum;
}

}  // namespace baton
