// Linear layers: y = x W^T + b for any number of rows.
//
// bf16 weights: row r of y is a function of row r of x alone, bit for bit: products of bfloat16 values are exact in
// float32 and are added in an order fixed by the number of inputs (lanes.inc), whatever the rows, tiles or threads.
// Callers round x to bfloat16 (it stays in float32 storage, so that it is expanded once). f32 weights go to OpenBLAS,
// which may sum in another order for another number of rows; the number of threads changes nothing.
//
//   Linear(pool, {weights, WeightType::kBf16, outputs, inputs}, bias, {x, inputs, rows}, y, outputs);
#pragma once

#include <cstdint>

#include "common/base/thread_pool.h"

namespace baton {

enum class WeightType { kF32, kBf16 };

// [outputs, inputs], row-major. bf16 data needs no more than 2-byte alignment: usable straight from a mapped file.
struct WeightMatrix {
  const void* data = nullptr;
  WeightType type = WeightType::kBf16;
  int64_t outputs = 0;
  int64_t inputs = 0;
};

// `rows` rows that start every `stride` floats.
struct InputRows {
  const float* data = nullptr;
  int64_t stride = 0;
  int64_t rows = 0;
};

// y[r, o] = sum_i x[r, i] w[o, i] + bias[o]; `bias` may be null. Rows of y start every y_stride floats.
void Linear(ThreadPool& pool, const WeightMatrix& weights, const float* bias, const InputRows& x, float* y,
            int64_t y_stride);

// The same on the calling thread.
void LinearOnThisThread(const WeightMatrix& weights, const float* bias, const InputRows& x, float* y, int64_t y_stride);

// Plain loops in the documented order: bitwise what bf16 weights give; the definition of f32.
void LinearReference(const WeightMatrix& weights, const float* bias, const InputRows& x, float* y, int64_t y_stride);

}  // namespace baton
