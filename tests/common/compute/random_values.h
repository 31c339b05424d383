// Reproducible inputs for kernel tests.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "common/compute/bf16.h"

namespace baton {

inline std::vector<float> RandomFloats(int64_t count, uint32_t seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(count);
  for (float& value : values) value = normal(generator);
  return values;
}

inline std::vector<uint16_t> ToBf16(const std::vector<float>& values) {
  std::vector<uint16_t> bits;
  for (const float value : values) bits.push_back(FloatToBf16(value));
  return bits;
}

inline std::vector<float> RoundedToBf16(std::vector<float> values) {
  for (float& value : values) value = RoundToBf16(value);
  return values;
}

}  // namespace baton
