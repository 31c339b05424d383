#include <vector>

#include "common/compute/matmul.h"

namespace baton {

void MatMulReference(const PackedMatrix& weights, const float* bias, const MatMulRows& x, float* y, int64_t y_stride) {
  std::vector<float> row(weights.inputs);
  for (int64_t o = 0; o < weights.outputs; ++o) {
    UnpackRow(weights, o, absl::MakeSpan(row));
    for (int64_t r = 0; r < x.rows; ++r) {
      double sum = bias == nullptr ? 0.0 : static_cast<double>(bias[o]);
      for (int64_t i = 0; i < weights.inputs; ++i) {
        sum += static_cast<double>(row[i]) * static_cast<double>(x.data[r * x.stride + i]);
      }
      y[r * y_stride + o] = static_cast<float>(sum);
    }
  }
}

}  // namespace baton
