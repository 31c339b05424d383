#include <algorithm>
#include <bit>
#include <limits>

#include "common/compute/matmul_kernels.h"

namespace baton {
namespace {

// Rows outside become zeros or NaN.
constexpr float kLeastMagnitude = std::numeric_limits<float>::min();
constexpr float kLargestMagnitude = std::numeric_limits<float>::max();

}  // namespace
}  // namespace baton

#define BATON_ISA_BODY "common/compute/matmul_int8a8.inc"
#include "common/compute/each_isa.inc"

namespace baton {

void MatMulInt8A8(const MatMulTask& task, const MatMulBlock& block) {
#if defined(__x86_64__)
  if (CurrentIsa() >= Isa::kAvx512Bf16) return MatMulInt8A8Vnni(task, block);
#endif
  BATON_PICK_ISA(MatMulInt8A8Block)(task, block);
}

void QuantizeRow(const float* x, int64_t inputs, int64_t padded_inputs, uint8_t* to, float* scale) {
  std::fill(to, to + padded_inputs, static_cast<uint8_t>(kInt8A8Shift));
  const float magnitude = std::bit_cast<float>(BATON_PICK_ISA(QuantizeCodes)(x, inputs, to));
  // As with float32 products: nothing but NaN comes of what is not finite.
  *scale = magnitude <= kLargestMagnitude ? magnitude / 127.0f : std::numeric_limits<float>::quiet_NaN();
}

}  // namespace baton
