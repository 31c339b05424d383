#include "common/compute/kv_quantization.h"

#define BATON_ISA_BODY "common/compute/kv_quantization.inc"
#include "common/compute/each_isa.inc"

namespace baton {

uint16_t QuantizeKvRow(const float* x, int64_t n, int8_t* codes) { return BATON_PICK_ISA(QuantizeF32)(x, n, codes); }

uint16_t QuantizeKvRow(const uint16_t* x, int64_t n, int8_t* codes) {
  return BATON_PICK_ISA(QuantizeBf16)(x, n, codes);
}

void DequantizeKvRow(const int8_t* codes, uint16_t scale, int64_t n, float* x) {
  BATON_PICK_ISA(Dequantize)(codes, scale, n, x);
}

}  // namespace baton
