// Rows of K and V as 8-bit codes with one bfloat16 scale, symmetric: value = code * scale, |code| <= 127.
//
//   scale = bfloat16(max |x| / 127)       code = round(x / scale), to nearest even
//
// The largest element keeps its precision, the others lose up to half a scale: about 0.4 % of the largest one. A row
// with an element that is not finite becomes all NaN: its damage stays visible. The same on every instruction set.
#pragma once

#include <cstdint>

namespace baton {

// Returns the scale. codes: [n].
uint16_t QuantizeKvRow(const float* x, int64_t n, int8_t* codes);
// The same for bfloat16 rows.
uint16_t QuantizeKvRow(const uint16_t* x, int64_t n, int8_t* codes);
void DequantizeKvRow(const int8_t* codes, uint16_t scale, int64_t n, float* x);

}  // namespace baton
