#include "common/compute/int4_quantization.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/compute/bf16.h"

namespace baton {
namespace {

constexpr int kCount = static_cast<int>(kInt4ScaleInputs);
// Sums run in this many partial sums so that they need not wait for one another.
constexpr int kPartialSums = 8;

// The group's largest magnitude is tried around both ends of the table: beyond an end it is cut off, and the others get
// finer steps. More tries gain less than 0.1 % of the error.
constexpr float kStretches[] = {0.94f, 1.0f, 1.05f, 1.1f, 1.16f, 1.24f};

// Code of the value nearest to each x.
void NearestCodes(const float* x, uint8_t* codes) {
  int counts[kCount] = {};
  for (int k = 0; k + 1 < 16; ++k) {
    const float middle = 0.5f * static_cast<float>(kInt4Values[k] + kInt4Values[k + 1]);
    for (int i = 0; i < kCount; ++i) counts[i] += x[i] > middle;
  }
  for (int i = 0; i < kCount; ++i) codes[i] = static_cast<uint8_t>(counts[i]);
}

struct Fit {
  float scale = 0;  // least squares for the codes
  float gain = 0;   // what it takes off the sum of squares
};

Fit FitScale(const float* x, const uint8_t* codes) {
  float products[kPartialSums] = {};
  float squares[kPartialSums] = {};
  for (int i = 0; i < kCount; i += kPartialSums) {
    for (int j = 0; j < kPartialSums; ++j) {
      const float value = kInt4Values[codes[i + j]];
      products[j] += x[i + j] * value;
      squares[j] += value * value;
    }
  }
  float product = 0;
  float square = 0;
  for (int j = 0; j < kPartialSums; ++j) {
    product += products[j];
    square += squares[j];
  }
  if (square == 0) return {};
  return {product / square, product * product / square};
}

void Scaled(const float* x, float factor, float* to) {
  for (int i = 0; i < kCount; ++i) to[i] = x[i] * factor;
}

}  // namespace

Int4Group QuantizeInt4(const float* weights) {
  Int4Group group;
  std::fill_n(group.codes, kCount, static_cast<uint8_t>(kInt4Zero));
  const float* extreme =
      std::max_element(weights, weights + kCount, [](float a, float b) { return std::fabs(a) < std::fabs(b); });
  const float magnitude = std::fabs(*extreme);
  if (magnitude < 256 * std::numeric_limits<float>::min()) return group;

  float normal[kCount];  // largest magnitude 1
  Scaled(weights, 1.0f / magnitude, normal);
  Fit best;
  for (const int8_t end : {kInt4Values.front(), kInt4Values.back()}) {
    for (const float stretch : kStretches) {
      // Steps per unit, with the sign that takes the extreme to this end.
      const float steps = static_cast<float>(end) * stretch * (std::signbit(*extreme) ? -1.0f : 1.0f);
      float x[kCount];
      uint8_t codes[kCount];
      Scaled(normal, steps, x);
      NearestCodes(x, codes);
      const Fit fit = FitScale(normal, codes);
      if (fit.gain > best.gain) best = fit;
    }
  }
  const float scale = RoundToBf16(best.scale * magnitude);
  if (std::fabs(scale) < std::numeric_limits<float>::min()) return group;
  float x[kCount];
  Scaled(weights, 1.0f / scale, x);
  NearestCodes(x, group.codes);
  group.scale = FloatToBf16(scale);
  return group;
}

}  // namespace baton
