#include <algorithm>
#include <cmath>
#include <limits>

#include "common/compute/matmul_kernels.h"

#define BATON_ISA_BODY "common/compute/matmul_int8a8.inc"
#include "common/compute/each_isa.inc"

namespace baton {

void MatMulInt8A8(const MatMulTask& task, const MatMulBlock& block, MatMulScratch& scratch) {
  BATON_PICK_ISA(MatMulInt8A8Block)(task, block);
}

void QuantizeRow(const float* x, int64_t inputs, int64_t padded_inputs, uint8_t* to, float* scale) {
  float magnitude = 0;
  bool finite = true;
  for (int64_t i = 0; i < inputs; ++i) {
    finite &= std::isfinite(x[i]);
    magnitude = std::max(magnitude, std::fabs(x[i]));
  }
  std::fill(to, to + padded_inputs, static_cast<uint8_t>(kInt8A8Shift));
  if (!finite) {  // as with float32 products: nothing but NaN comes of it
    *scale = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  *scale = magnitude / 127.0f;
  if (magnitude < std::numeric_limits<float>::min()) return;
  const float inverse = 127.0f / magnitude;
  for (int64_t i = 0; i < inputs; ++i) {
    const int code = std::clamp(static_cast<int>(std::nearbyint(x[i] * inverse)), -127, 127);
    to[i] = static_cast<uint8_t>(code + kInt8A8Shift);
  }
}

}  // namespace baton
