#include "bench/peak_kernels.h"

#include <cstring>

#if defined(__x86_64__)
#include <cpuid.h>
#include <immintrin.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace baton {
namespace {

constexpr int kAccumulators = 12;  // hides the latency of two multiply-adds a cycle, and fits 16 registers

// What the compiler must not know, so that nothing is computed at compile time.
volatile float kOne = 1.0f;
volatile float kTiny = 1e-30f;

uint64_t ReadPortable(absl::Span<const std::byte> bytes) {
  uint64_t sums[8] = {};
  for (size_t at = 0; at + sizeof(sums) <= bytes.size(); at += sizeof(sums)) {
    for (int i = 0; i < 8; ++i) {
      uint64_t word;
      std::memcpy(&word, bytes.data() + at + i * sizeof(word), sizeof(word));
      sums[i] += word;
    }
  }
  uint64_t sum = 0;
  for (const uint64_t part : sums) sum += part;
  return sum;
}

float FmaPortable(int64_t iterations) {
  const float x = kOne, y = kTiny;
  float sums[4 * kAccumulators] = {};
  for (int64_t n = 0; n < iterations; ++n) {
    for (float& sum : sums) sum = sum * x + y;
  }
  float total = 0;
  for (const float sum : sums) total += sum;
  return total;
}

#if defined(__x86_64__)

__attribute__((target("avx2"))) uint64_t ReadAvx2(absl::Span<const std::byte> bytes) {
  __m256i sums[8];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  for (size_t at = 0; at + sizeof(sums) <= bytes.size(); at += sizeof(sums)) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const auto* word = reinterpret_cast<const __m256i*>(bytes.data() + at) + i;
      sums[i] = _mm256_add_epi64(sums[i], _mm256_loadu_si256(word));
    }
  }
  uint64_t words[8 * 4];
  std::memcpy(words, sums, sizeof(words));
  uint64_t total = 0;
  for (const uint64_t word : words) total += word;
  return total;
}

__attribute__((target("avx512f"))) uint64_t ReadAvx512(absl::Span<const std::byte> bytes) {
  __m512i sums[8];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (size_t at = 0; at + sizeof(sums) <= bytes.size(); at += sizeof(sums)) {
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i) {
      const auto* word = reinterpret_cast<const __m512i*>(bytes.data() + at) + i;
      sums[i] = _mm512_add_epi64(sums[i], _mm512_loadu_si512(word));
    }
  }
  uint64_t words[8 * 8];
  std::memcpy(words, sums, sizeof(words));
  uint64_t total = 0;
  for (const uint64_t word : words) total += word;
  return total;
}

__attribute__((target("avx2,fma"))) float FmaAvx2(int64_t iterations) {
  const __m256 x = _mm256_set1_ps(kOne), y = _mm256_set1_ps(kTiny);
  __m256 sums[kAccumulators];
  for (__m256& sum : sums) sum = _mm256_setzero_ps();
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm256_fmadd_ps(x, y, sums[i]);
  }
  for (int i = 1; i < kAccumulators; ++i) sums[0] = _mm256_add_ps(sums[0], sums[i]);
  return _mm256_cvtss_f32(sums[0]);
}

__attribute__((target("avx512f"))) float FmaAvx512(int64_t iterations) {
  const __m512 x = _mm512_set1_ps(kOne), y = _mm512_set1_ps(kTiny);
  __m512 sums[kAccumulators];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm512_fmadd_ps(x, y, sums[i]);
  }
  for (int i = 1; i < kAccumulators; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
  return _mm512_cvtss_f32(sums[0]);
}

__attribute__((target("avx512f,avx512bw,avx512vl,avx512bf16"))) float DotAvx512Bf16(int64_t iterations) {
  const __m512 seed = _mm512_set1_ps(kOne);
  const __m512bh x = _mm512_cvtne2ps_pbh(seed, seed);
  __m512 sums[kAccumulators];
  for (__m512& sum : sums) sum = _mm512_setzero_ps();
  for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 12
    for (int i = 0; i < kAccumulators; ++i) sums[i] = _mm512_dpbf16_ps(sums[i], x, x);
  }
  for (int i = 1; i < kAccumulators; ++i) sums[0] = _mm512_add_ps(sums[0], sums[i]);
  return _mm512_cvtss_f32(sums[0]);
}

// Layout fixed by the LDTILECFG instruction.
struct TileConfig {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};
};
static_assert(sizeof(TileConfig) == 64);

constexpr int kTiles = 8;
constexpr int kTileRows = 16;
constexpr int kTileRowBytes = 64;
constexpr int kTileProducts = 4;  // in one iteration, on four accumulator tiles
// Rows of C * columns of C * 32 bfloat16 products, each a multiply and an add.
constexpr double kTileFlops = 2.0 * kTileRows * 16 * 32;

__attribute__((target("amx-tile,amx-bf16"))) float TilesAmxBf16(int64_t iterations) {
  TileConfig config;
  for (int i = 0; i < kTiles; ++i) {
    config.row_bytes[i] = kTileRowBytes;
    config.rows[i] = kTileRows;
  }
  _tile_loadconfig(&config);
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
  _tile_zero(4);
  _tile_zero(5);
  _tile_zero(6);
  _tile_zero(7);
  for (int64_t n = 0; n < iterations; ++n) {
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(1, 4, 7);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  float result[kTileRows * kTileRowBytes / sizeof(float)];
  _tile_stored(0, result, kTileRowBytes);
  _tile_release();
  return result[0];
}

// The CPU has the instructions and the kernel lets this process keep tiles.
bool HasAmxBf16() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return false;
  constexpr unsigned kAmxBf16 = 1u << 22, kAmxTile = 1u << 24;
  if ((edx & kAmxBf16) == 0 || (edx & kAmxTile) == 0) return false;
  constexpr long kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr long kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
}

#endif  // __x86_64__

}  // namespace

uint64_t StreamRead(absl::Span<const std::byte> bytes) {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return ReadAvx512(bytes);
  if (__builtin_cpu_supports("avx2")) return ReadAvx2(bytes);
#endif
  return ReadPortable(bytes);
}

PeakKernel BestFloatKernel() {
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx512f")) return {"avx512 fma", 2.0 * 16 * kAccumulators, FmaAvx512};
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    return {"avx2 fma", 2.0 * 8 * kAccumulators, FmaAvx2};
  }
#endif
  return {"portable multiply-add", 2.0 * 4 * kAccumulators, FmaPortable};
}

PeakKernel BestBf16Kernel() {
#if defined(__x86_64__)
  if (HasAmxBf16()) return {"amx bf16", kTileProducts * kTileFlops, TilesAmxBf16};
  if (__builtin_cpu_supports("avx512bf16")) return {"avx512 bf16", 2.0 * 32 * kAccumulators, DotAvx512Bf16};
#endif
  return BestFloatKernel();
}

}  // namespace baton
