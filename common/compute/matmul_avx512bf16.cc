#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <algorithm>
#include <type_traits>

#include "common/compute/bf16.h"
#include "common/compute/matmul_kernels.h"

#if defined(__x86_64__)

#define BATON_TARGET __attribute__((target("avx2,fma,avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx512vbmi")))
#define BATON_KERNEL static BATON_TARGET
#define BATON_INLINE static inline __attribute__((always_inline)) BATON_TARGET

namespace baton {
namespace {

struct alignas(64) CodeTables {
  uint8_t low[128], high[128];  // int8: bytes of the bfloat16 of 0 to 127
  uint16_t words[32];           // int4: the bfloat16 of its values, twice
};

constexpr CodeTables MakeCodeTables() {
  CodeTables tables = {};
  for (int i = 0; i < 128; ++i) {
    const uint16_t bits = FloatToBf16(static_cast<float>(i));
    tables.low[i] = static_cast<uint8_t>(bits & 0xff);
    tables.high[i] = static_cast<uint8_t>(bits >> 8);
  }
  for (int i = 0; i < 32; ++i) tables.words[i] = FloatToBf16(kInt4Values[i % 16]);
  return tables;
}

constexpr CodeTables code_tables = MakeCodeTables();

#include "common/compute/matmul_avx512bf16.inc"

template <typename Format>
BATON_KERNEL void Run(const MatMulTask& task, const MatMulBlock& block) {
  MatMulRowsOf<Format>(task, block.first_group, block.first_group + block.groups, block.first_row, block.rows);
}

// Thirty-two floats at a time.
BATON_KERNEL void PairRow(const float* x, int64_t inputs, int64_t padded_inputs, uint32_t* to) {
  for (int64_t i = 0; i < padded_inputs; i += 32) {
    const int64_t left = inputs - i;
    const __mmask32 mask = left >= 32 ? 0xffffffffu : left <= 0 ? 0u : (1u << left) - 1;
    const __m512 low = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask), x + i);
    const __m512 high = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16), x + i + 16);
    _mm512_storeu_si512(to + i / 2, (__m512i)_mm512_cvtne2ps_pbh(high, low));
  }
}

}  // namespace

void MatMulAvx512Bf16(const MatMulTask& task, const MatMulBlock& block) {
  switch (task.weights.precision) {
    case WeightPrecision::kBf16:
      return Run<Bf16Format>(task, block);
    case WeightPrecision::kInt8:
      return Run<Int8Format>(task, block);
    default:
      return Run<Int4Format>(task, block);
  }
}

void PairRowAvx512Bf16(const float* x, int64_t inputs, int64_t padded_inputs, uint32_t* to) {
  PairRow(x, inputs, padded_inputs, to);
}

}  // namespace baton

#endif
