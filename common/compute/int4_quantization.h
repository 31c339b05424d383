// The 4-bit codes of a group of weights: nearest values of kInt4Values times a scale, the scale chosen so that the sum
// of squared errors is least.
#pragma once

#include <cstdint>

#include "common/compute/packed_layout.h"

namespace baton {

struct Int4Group {
  uint16_t scale = 0;  // bfloat16, possibly negative: the table reaches farther on its negative side
  uint8_t codes[kInt4ScaleInputs];
};

// weights: [kInt4ScaleInputs], finite.
Int4Group QuantizeInt4(const float* weights);

}  // namespace baton
