#include <cblas.h>

#include <algorithm>
#include <mutex>

#include "common/compute/matmul_task.h"

namespace baton {
namespace {

// The pool splits the work; OpenBLAS's own threads would only compete with it.
void UseOneBlasThread() {
  static std::once_flag once;
  std::call_once(once, [] { openblas_set_num_threads(1); });
}

}  // namespace

void MatMulF32(const PackedMatrix& weights, const float* bias, const MatMulRows& x, int64_t begin, int64_t end,
               float* y, int64_t y_stride) {
  UseOneBlasThread();
  if (bias != nullptr) {
    for (int64_t r = 0; r < x.rows; ++r) std::copy(bias + begin, bias + end, y + r * y_stride + begin);
  }
  const float* w = reinterpret_cast<const float*>(weights.data) + begin * weights.inputs;
  cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasTrans, static_cast<blasint>(x.rows), static_cast<blasint>(end - begin),
              static_cast<blasint>(weights.inputs), 1.0f, x.data, static_cast<blasint>(x.stride), w,
              static_cast<blasint>(weights.inputs), bias == nullptr ? 0.0f : 1.0f, y + begin,
              static_cast<blasint>(y_stride));
}

}  // namespace baton
