// What this machine can do at best, measured now: benchmarks divide by it, and measure it before and after, since
// neighbours on a shared machine move it by tens of percent.
//
//   MachineMeter meter({.threads = 2});
//   const MachineLimits before = meter.last();
//   ... the benchmark ...
//   const MachineLimits limits = Mean(before, meter.Measure());
//
// Each figure is the best of several short passes on all threads at once. A measurement takes about two seconds; the
// meter keeps, for the read bandwidth, a buffer several times the last-level cache.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "bench/matmul_peak.h"
#include "common/base/pages.h"
#include "common/base/thread_pool.h"
#include "common/compute/packed_matrix.h"

namespace baton {

struct MachineLimits {
  int threads = 0;
  double read_bytes_per_second = 0;  // streaming reads of main memory
  double sgemm_flops = 0;            // per second: OpenBLAS at shapes of real models
  double float_flops = 0;            // float32 multiply-adds on registers
  double bf16_flops = 0;             // bfloat16 products with float32 accumulation on registers
  double matmul_flops = 0;           // our packed products at shapes of real models
  double onednn_flops = 0;           // oneDNN's bf16 products at the same shapes; 0: not in this build
  std::string float_kernel;          // "avx512 fma"
  std::string bf16_kernel;           // "amx bf16"
  std::string openblas_core;         // the kernels OpenBLAS chose: "SkylakeX"
  int64_t cache_bytes = 0;           // last-level cache; 0: unknown

  // What prefill is held against: the best whole products that anyone reaches here.
  double MatMulPeak() const { return std::max(matmul_flops, onednn_flops); }
};

struct MachineLimitsOptions {
  int threads = 0;  // 0: one per usable CPU
  // Of the packed products.
  WeightPrecision precision = WeightPrecision::kBf16;
  // Of whole products: ours, oneDNN's and SGEMM's. 0: none are measured.
  int64_t matmul_rows = 512;
  // 0: four times the last-level cache, at least 256 MiB and at most an eighth of memory.
  int64_t buffer_bytes = 0;
  double seconds_per_figure = 0.4;
};

class MachineMeter {
 public:
  // Measures for the first time.
  explicit MachineMeter(const MachineLimitsOptions& options);
  MachineMeter(const MachineMeter&) = delete;

  const MachineLimits& last() const { return last_; }
  const MachineLimits& Measure();
  // Read bandwidth over a short time, slow moments included: what work that takes as long could have had.
  double SustainedRead();

 private:
  double BestRead();

  const MachineLimitsOptions options_;
  ThreadPool pool_;
  PageBlock read_buffer_;  // empty: no memory for it, and no figure
  std::vector<Product> packed_, sgemm_, onednn_;
  MachineLimits last_;
};

// Of both measurements' figures; names of the first.
MachineLimits Mean(const MachineLimits& before, const MachineLimits& after);

}  // namespace baton
