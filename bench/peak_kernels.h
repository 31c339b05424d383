// Loops that do nothing but read memory or multiply registers, as fast as this CPU can: the denominators of benchmarks.
// The best instructions are chosen at run time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace baton {

// Adds up all bytes as 64-bit words with the widest loads there are; size a multiple of 512. The sum keeps the loads
// alive.
uint64_t StreamRead(absl::Span<const std::byte> bytes);

struct PeakKernel {
  // "avx512 fma", "amx bf16", ...
  const char* name = "";
  double flops_per_iteration = 0;
  // Independent multiply-adds on registers; the result keeps them alive.
  float (*run)(int64_t iterations) = nullptr;
};

// float32 multiply-adds.
PeakKernel BestFloatKernel();
// bfloat16 products with float32 accumulation: AMX tiles or AVX-512 dot products; where the CPU has neither, bfloat16
// values have to be expanded and the float32 kernel is the limit.
PeakKernel BestBf16Kernel();

}  // namespace baton
