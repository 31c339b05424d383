#include <array>

#include "common/compute/bf16.h"
#include "common/compute/matmul_kernels.h"

namespace baton {
namespace {

// bfloat16 of every int8 code (sign-magnitude) and every int4 code.
const uint16_t* Int8Bf16Values() {
  static const std::array<uint16_t, 256> values = [] {
    std::array<uint16_t, 256> all;
    for (int code = 0; code < 256; ++code) {
      all[code] = FloatToBf16(static_cast<float>(code & 0x80 ? -(code & 0x7f) : code));
    }
    return all;
  }();
  return values.data();
}

const uint16_t* Int4Bf16Values() {
  static const std::array<uint16_t, 16> values = [] {
    std::array<uint16_t, 16> all;
    for (int code = 0; code < 16; ++code) all[code] = FloatToBf16(kInt4Values[code]);
    return all;
  }();
  return values.data();
}

}  // namespace
}  // namespace baton

#define BATON_ISA_BODY "common/compute/matmul_lanes.inc"
#include "common/compute/each_isa.inc"

namespace baton {

void MatMulLanes(const MatMulTask& task, const MatMulBlock& block, MatMulScratch& scratch) {
  BATON_PICK_ISA(MatMulBlockOf)(task, block, scratch);
}

}  // namespace baton
