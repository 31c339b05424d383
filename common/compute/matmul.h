// y = x W^T + b for any number of rows, with packed weights.
//
// Row r of y is a function of row r of x alone, bit for bit within an instruction set: a sum runs over its inputs in an
// order that depends on nothing else, ascending, in one float32 accumulator (int4: one per 64 inputs, and one over
// those; AMX: 32 inputs at a time), whatever the number of rows, tiles or threads. The exception is kF32, which goes to
// OpenBLAS: it may sum in another order for another number of rows.
//
//   MatMul(pool, weights, bias, {x, inputs, rows}, y, outputs);
#pragma once

#include <cstdint>

#include "common/base/thread_pool.h"
#include "common/compute/packed_matrix.h"

namespace baton {

// `rows` rows that start every `stride` floats. Callers have rounded them to bfloat16 (unless weights are kF32): the
// values stay in float32 storage, and a kernel's conversion loses nothing.
struct MatMulRows {
  const float* data = nullptr;
  int64_t stride = 0;
  int64_t rows = 0;
};

// y[r, o] = sum_i x[r, i] w[o, i] + bias[o]; `bias` may be null. Rows of y start every y_stride floats.
void MatMul(ThreadPool& pool, const PackedMatrix& weights, const float* bias, const MatMulRows& x, float* y,
            int64_t y_stride);

// The same on the calling thread.
void MatMulOnThisThread(const PackedMatrix& weights, const float* bias, const MatMulRows& x, float* y,
                        int64_t y_stride);

// The definition: plain loops over UnpackRow in double precision.
void MatMulReference(const PackedMatrix& weights, const float* bias, const MatMulRows& x, float* y, int64_t y_stride);

}  // namespace baton
