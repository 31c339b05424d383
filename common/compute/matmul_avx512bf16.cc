// Matrix products with AVX-512's bfloat16 dot product: sum += w[2p] * x[2p] + w[2p + 1] * x[2p + 1] in sixteen lanes,
// an output each. Codes become bfloat16 in registers, exactly, in the shadow of the multiplications or of memory.
//
// A tile is up to 8 rows x 2 groups, or 4 rows x 4 groups where memory is the limit and more streams help. All rows of
// a tile column follow one another, so that weights come from memory once and then from the second-level cache.
#if defined(__x86_64__)

#include <algorithm>
#include <type_traits>

#include "common/compute/matmul_codes.inc"

namespace baton {
namespace {

BATON_INLINE __m512 Dot(__m512 sum, __m512i weights, __m512i x) {
  return _mm512_dpbf16_ps(sum, (__m512bh)weights, (__m512bh)x);
}

// Adds `blocks` blocks of every group to the sums. `ahead`: what to fetch meanwhile.
template <typename Format, int kRows, int kGroups>
BATON_INLINE void AddBlocks(const Tables& tables, const std::byte* first, int64_t group_bytes, const std::byte* ahead,
                            int64_t blocks, const uint32_t* x, int64_t x_stride, __m512 (&sums)[kRows][kGroups]) {
  for (int64_t b = 0; b < blocks; ++b) {
    __m512i weights[kGroups][Format::kPairs];
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) {
      _mm_prefetch(ahead + g * group_bytes + b * kBlockBytes, _MM_HINT_T1);
      ExpandBlock(Format(), tables, first + g * group_bytes + b * kBlockBytes, weights[g]);
    }
#pragma GCC unroll 8
    for (int p = 0; p < Format::kPairs; ++p) {
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const __m512i pair = _mm512_set1_epi32(static_cast<int>(x[r * x_stride + b * Format::kPairs + p]));
#pragma GCC unroll 8
        for (int g = 0; g < kGroups; ++g) sums[r][g] = Dot(sums[r][g], weights[g][p], pair);
      }
    }
  }
}

template <int kRows, int kGroups>
BATON_INLINE void SetZero(__m512 (&sums)[kRows][kGroups]) {
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) sums[r][g] = _mm512_setzero_ps();
  }
}

constexpr int kTileRows = 8;
constexpr int kTileGroups = 2;
constexpr int kFewRowGroups = 4;
// What is fetched ahead of the arithmetic, of every group: 2 KiB.
constexpr int64_t kBlocksAhead = 32;
constexpr int64_t kChunksAhead = 2;

template <typename Format, int kRows, int kGroups>
BATON_KERNEL void Tile(const MatMulTask& task, int64_t group, int64_t row) {
  const Tables tables = LoadTables();
  const int64_t x_stride = task.padded_inputs / 2;
  const uint32_t* x = static_cast<const uint32_t*>(task.x) + row * x_stride;
  const std::byte* data = task.weights.data + group * task.group_bytes;
  __m512 sums[kRows][kGroups];
  SetZero(sums);
  if constexpr (std::is_same_v<Format, Int4Format>) {
    const std::byte* last_ahead = data + task.group_bytes - kChunksAhead * kInt4ChunkBytes;
    for (int64_t i = 0; i < task.padded_inputs; i += kInt4ChunkInputs, data += kInt4ChunkBytes) {
      const std::byte* ahead = data + kChunksAhead * kInt4ChunkBytes;
      if (data >= last_ahead) ahead += (kGroups - 1) * task.group_bytes;  // the next groups
#pragma GCC unroll 8
      for (int g = 0; g < kGroups; ++g) _mm_prefetch(ahead + g * task.group_bytes, _MM_HINT_T1);
#pragma GCC unroll 1
      for (int half = 0; half < 2; ++half) {
        __m512 parts[kRows][kGroups];
        SetZero(parts);
        constexpr int64_t kBlocks = kInt4ScaleInputs / 8;
        const int64_t offset = kBlockBytes + half * kBlocks * kBlockBytes;
        AddBlocks<Format>(tables, data + offset, task.group_bytes, ahead + offset, kBlocks, x, x_stride, parts);
        x += kInt4ScaleInputs / 2;
#pragma GCC unroll 8
        for (int g = 0; g < kGroups; ++g) {
          const __m512 scale = LoadScales(data + g * task.group_bytes + half * kGroupOutputs * 2);
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) sums[r][g] = _mm512_fmadd_ps(scale, parts[r][g], sums[r][g]);
        }
      }
    }
  } else {
    const std::byte* first = data + GroupHeaderBytes(task.weights.precision);
    const int64_t blocks = task.padded_inputs / (2 * Format::kPairs);
    // The last fetches go to the next groups.
    const int64_t main_blocks = blocks > kBlocksAhead ? blocks - kBlocksAhead : 0;
    AddBlocks<Format>(tables, first, task.group_bytes, first + kBlocksAhead * kBlockBytes, main_blocks, x, x_stride,
                      sums);
    AddBlocks<Format>(tables, first + main_blocks * kBlockBytes, task.group_bytes, first + kGroups * task.group_bytes,
                      blocks - main_blocks, x + main_blocks * Format::kPairs, x_stride, sums);
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int g = 0; g < kGroups; ++g) StoreResult(task, row + r, group + g, sums[r][g]);
  }
}

template <typename Format, int kMostRows, int kGroups>
BATON_INLINE void TileOf(const MatMulTask& task, int64_t group, int64_t row, int64_t rows) {
  if constexpr (kMostRows > 1) {
    if (rows < kMostRows) return TileOf<Format, kMostRows - 1, kGroups>(task, group, row, rows);
  }
  Tile<Format, kMostRows, kGroups>(task, group, row);
}

// All rows of a few groups before the next groups: their codes come from memory once, then from the cache.
template <typename Format, int kGroups>
BATON_INLINE void Column(const MatMulTask& task, int64_t group, int64_t row, int64_t rows) {
  const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
  for (int64_t t = 0; t < tiles; ++t) {
    const int64_t first = rows * t / tiles;
    TileOf<Format, kTileRows, kGroups>(task, group, row + first, rows * (t + 1) / tiles - first);
  }
}

template <typename Format>
BATON_KERNEL void MatMulRowsOf(const MatMulTask& task, int64_t begin, int64_t end, int64_t row, int64_t rows) {
  int64_t group = begin;
  // int4 needs registers for sums of 64 inputs and of all.
  constexpr int64_t kFewRows = std::is_same_v<Format, Int4Format> ? 2 : 4;
  if (rows <= kFewRows) {
    for (; group + kFewRowGroups <= end; group += kFewRowGroups) {
      TileOf<Format, kFewRows, kFewRowGroups>(task, group, row, rows);
    }
  }
  for (; group + kTileGroups <= end; group += kTileGroups) Column<Format, kTileGroups>(task, group, row, rows);
  for (; group < end; ++group) Column<Format, 1>(task, group, row, rows);
}

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
