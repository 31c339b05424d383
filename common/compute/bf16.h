// bfloat16: the upper half of a float32. Conversions round to nearest even; NaN stays NaN.
#pragma once

#include <bit>
#include <cstdint>

namespace baton {

constexpr float Bf16ToFloat(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }

constexpr uint16_t FloatToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (value != value) return static_cast<uint16_t>((bits >> 16) | 0x40);  // rounding could carry a NaN into infinity
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

// The nearest bfloat16, as a float.
constexpr float RoundToBf16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000u;
  return value != value ? value : std::bit_cast<float>(rounded);
}

}  // namespace baton
