// int8a8 with AVX-512's dot product of unsigned and signed bytes: four inputs of sixteen outputs at once. Sums are
// exact integers, so the same bits as matmul_int8a8.inc.
#if defined(__x86_64__)

#include <immintrin.h>

#include <algorithm>

#include "common/compute/kernel_attributes.h"
#include "common/compute/matmul_kernels.h"

#define BATON_TARGET __attribute__((target(BATON_AVX512_FEATURES ",avx512vnni")))

namespace baton {
namespace {

// Of every group, ahead of the arithmetic.
constexpr int64_t kBlocksAhead = 32;
constexpr int64_t kTileRows = 8;
constexpr int kTileGroups = 2;
constexpr int64_t kFewRows = 2;
constexpr int kFewRowGroups = 4;

BATON_INLINE void StoreResult(const MatMulTask& task, int64_t row, int64_t group, __m512i sum) {
  const std::byte* header = task.weights.data + group * task.group_bytes;
  const int64_t first = group * kGroupOutputs;
  const int64_t count = task.weights.outputs - first;
  const __mmask16 mask = count >= kGroupOutputs ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
  const __m512i corrected = _mm512_sub_epi32(sum, _mm512_loadu_si512(header + kGroupOutputs * 4));
  const __m512 scale = _mm512_mul_ps(_mm512_loadu_ps(header), _mm512_set1_ps(task.row_scales[row]));
  __m512 y = _mm512_mul_ps(_mm512_cvtepi32_ps(corrected), scale);
  if (task.bias != nullptr) y = _mm512_add_ps(y, _mm512_maskz_loadu_ps(mask, task.bias + first));
  _mm512_mask_storeu_ps(task.y + row * task.y_stride + first, mask, y);
}

template <int kRows, int kGroups>
BATON_KERNEL void Tile(const MatMulTask& task, int64_t group, int64_t row) {
  const uint8_t* x = static_cast<const uint8_t*>(task.x) + row * task.padded_inputs;
  const std::byte* first = task.weights.data + group * task.group_bytes + GroupHeaderBytes(WeightPrecision::kInt8A8);
  const int64_t blocks = task.padded_inputs / 4;
  __m512i sums[kRows][kGroups];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) sums[r][g] = _mm512_setzero_si512();
  }
  for (int64_t b = 0; b < blocks; ++b) {
    // The last fetches go to the next groups.
    const int64_t ahead = b + kBlocksAhead < blocks ? 0 : (kGroups - 1) * task.group_bytes;
    __m512i weights[kGroups];
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) {
      const std::byte* block = first + g * task.group_bytes + b * kBlockBytes;
      _mm_prefetch(block + ahead + kBlocksAhead * kBlockBytes, _MM_HINT_T1);
      weights[g] = _mm512_loadu_si512(block);
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      int32_t four;
      __builtin_memcpy(&four, x + r * task.padded_inputs + b * 4, sizeof(four));
      const __m512i codes = _mm512_set1_epi32(four);
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) sums[r][g] = _mm512_dpbusd_epi32(sums[r][g], codes, weights[g]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) StoreResult(task, row + r, group + g, sums[r][g]);
  }
}

template <int kGroups>
BATON_INLINE void TileOf(const MatMulTask& task, int64_t group, int64_t row, int64_t rows) {
  switch (rows) {
    case 1:
      return Tile<1, kGroups>(task, group, row);
    case 2:
      return Tile<2, kGroups>(task, group, row);
    case 3:
      return Tile<3, kGroups>(task, group, row);
    case 4:
      return Tile<4, kGroups>(task, group, row);
    case 5:
      return Tile<5, kGroups>(task, group, row);
    case 6:
      return Tile<6, kGroups>(task, group, row);
    case 7:
      return Tile<7, kGroups>(task, group, row);
    default:
      return Tile<8, kGroups>(task, group, row);
  }
}

// All rows of a few groups before the next groups: weights come from memory once, then from the cache.
template <int kGroups>
BATON_INLINE void Column(const MatMulTask& task, const MatMulBlock& block, int64_t group) {
  const int64_t tiles = (block.rows + kTileRows - 1) / kTileRows;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = block.rows * t / tiles;
    TileOf<kGroups>(task, group, block.first_row + first, block.rows * (t + 1) / tiles - first);
  }
}

BATON_KERNEL void Run(const MatMulTask& task, const MatMulBlock& block) {
  const int64_t end = block.first_group + block.groups;
  int64_t group = block.first_group;
  if (block.rows <= kFewRows) {
    for (; group + kFewRowGroups <= end; group += kFewRowGroups) {
      block.rows == 1 ? Tile<1, kFewRowGroups>(task, group, block.first_row)
                      : Tile<2, kFewRowGroups>(task, group, block.first_row);
    }
  }
  for (; group + kTileGroups <= end; group += kTileGroups) Column<kTileGroups>(task, block, group);
  for (; group < end; ++group) Column<1>(task, block, group);
}

}  // namespace

void MatMulInt8A8Vnni(const MatMulTask& task, const MatMulBlock& block) { Run(task, block); }

}  // namespace baton

#endif
