// How functions are compiled for one instruction set. Whoever includes this defines BATON_TARGET, empty or
// __attribute__((target(...))), before the first function: each_isa.inc for every set in turn, other files once.
#pragma once

// Inner loops run a hundred times slower under ThreadSanitizer, and whoever splits their work over threads is tested
// for equal bits: they are left out.
#if defined(__SANITIZE_THREAD__)
#define BATON_UNWATCHED __attribute__((no_sanitize("thread")))
#else
#define BATON_UNWATCHED
#endif

#define BATON_KERNEL static BATON_UNWATCHED BATON_TARGET
#define BATON_INLINE static inline __attribute__((always_inline)) BATON_UNWATCHED BATON_TARGET

// What Isa::kAvx512 and Isa::kAvx512Bf16 promise (VNNI apart, which one file asks for).
#define BATON_AVX512_FEATURES "avx2,fma,avx512f,avx512bw,avx512dq,avx512vl"
#define BATON_AVX512BF16_FEATURES BATON_AVX512_FEATURES ",avx512bf16,avx512vbmi"
