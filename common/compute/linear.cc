#include "common/compute/linear.h"

#include <cblas.h>

#include <algorithm>
#include <mutex>

#include "common/compute/bf16.h"

#define BATON_ISA_BODY "common/compute/linear_bf16.inc"
#include "common/compute/each_isa.inc"

namespace baton {
namespace {

// Outputs of one SGEMM call: fixed, so that its shapes (and bits) do not depend on the number of threads.
constexpr int64_t kSgemmOutputs = 256;
// Work of one block of a bf16 layer, in multiply-adds: some tens of microseconds.
constexpr int64_t kBlockWork = int64_t{1} << 19;

// The pool splits the work; OpenBLAS's own threads would only compete with it.
void UseOneBlasThread() {
  static std::once_flag once;
  std::call_once(once, [] { openblas_set_num_threads(1); });
}

void LinearF32Range(const WeightMatrix& weights, const float* bias, const InputRows& x, int64_t begin, int64_t end,
                    float* y, int64_t y_stride) {
  const float beta = bias == nullptr ? 0.0f : 1.0f;
  if (bias != nullptr) {
    for (int64_t r = 0; r < x.rows; ++r) std::copy(bias + begin, bias + end, y + r * y_stride + begin);
  }
  const float* w = static_cast<const float*>(weights.data) + begin * weights.inputs;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(x.rows), static_cast<blasint>(end - begin),
              static_cast<blasint>(weights.inputs), 1.0f, x.data, static_cast<blasint>(x.stride), w,
              static_cast<blasint>(weights.inputs), beta, y + begin, static_cast<blasint>(y_stride));
}

void LinearRange(const WeightMatrix& weights, const float* bias, const InputRows& x, int64_t begin, int64_t end,
                 float* y, int64_t y_stride) {
  if (weights.type == WeightType::kF32) return LinearF32Range(weights, bias, x, begin, end, y, y_stride);
  BATON_PICK_ISA(LinearBf16Range)
  (static_cast<const uint16_t*>(weights.data), bias, x.data, x.stride, x.rows, weights.inputs, begin, end, y, y_stride);
}

int64_t OutputsPerBlock(const WeightMatrix& weights, int64_t rows) {
  if (weights.type == WeightType::kF32) return kSgemmOutputs;
  const int64_t enough_work = kBlockWork / (rows * weights.inputs);
  return std::max<int64_t>(16, enough_work / 16 * 16);
}

}  // namespace

void Linear(ThreadPool& pool, const WeightMatrix& weights, const float* bias, const InputRows& x, float* y,
            int64_t y_stride) {
  if (x.rows == 0) return;
  if (weights.type == WeightType::kF32) UseOneBlasThread();
  const int64_t block = OutputsPerBlock(weights, x.rows);
  const int64_t blocks = (weights.outputs + block - 1) / block;
  pool.ParallelFor(blocks, 1, [&](int64_t first, int64_t last) {
    for (int64_t b = first; b < last; ++b) {
      LinearRange(weights, bias, x, b * block, std::min(weights.outputs, (b + 1) * block), y, y_stride);
    }
  });
}

void LinearOnThisThread(const WeightMatrix& weights, const float* bias, const InputRows& x, float* y,
                        int64_t y_stride) {
  if (x.rows == 0) return;
  if (weights.type == WeightType::kF32) UseOneBlasThread();
  LinearRange(weights, bias, x, 0, weights.outputs, y, y_stride);
}

void LinearReference(const WeightMatrix& weights, const float* bias, const InputRows& x, float* y, int64_t y_stride) {
  constexpr int kWidth = 16;
  for (int64_t r = 0; r < x.rows; ++r) {
    for (int64_t o = 0; o < weights.outputs; ++o) {
      float lanes[kWidth] = {};
      for (int64_t i = 0; i < weights.inputs; ++i) {
        const int64_t at = o * weights.inputs + i;
        const float w = weights.type == WeightType::kF32 ? static_cast<const float*>(weights.data)[at]
                                                         : Bf16ToFloat(static_cast<const uint16_t*>(weights.data)[at]);
        lanes[i % kWidth] += w * x.data[r * x.stride + i];
      }
      for (int half = kWidth / 2; half > 0; half /= 2) {
        for (int lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
      }
      y[r * y_stride + o] = lanes[0] + (bias == nullptr ? 0.0f : bias[o]);
    }
  }
}

}  // namespace baton
