// One matrix product as its kernels see it, and the memory they work in. Internal to common/compute/matmul*.
#pragma once

#include <cstddef>
#include <cstdint>

#include "common/compute/matmul.h"
#include "common/compute/packed_layout.h"

namespace baton {

struct MatMulTask {
  PackedMatrix weights;
  int64_t group_bytes = 0;
  int64_t padded_inputs = 0;
  // Activations as the kernel wants them: [rows, padded_inputs], zero where there is no input.
  const void* x = nullptr;
  const float* row_scales = nullptr;  // int8a8: [rows]
  const float* bias = nullptr;
  float* y = nullptr;
  int64_t y_stride = 0;
};

// Memory of one thread for one purpose, which grows to the largest size asked for and stays: no call allocates once the
// largest shapes have been seen. 64-byte aligned; contents are not kept when it grows.
class MatMulScratch {
 public:
  MatMulScratch() = default;
  MatMulScratch(const MatMulScratch&) = delete;
  ~MatMulScratch();
  std::byte* AtLeast(int64_t bytes);

 private:
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;
};

// kF32, through OpenBLAS: one thread's share of outputs.
void MatMulF32(const PackedMatrix& weights, const float* bias, const MatMulRows& x, int64_t begin, int64_t end,
               float* y, int64_t y_stride);

}  // namespace baton
