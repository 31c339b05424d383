// What happens to one row at a time: RMSNorm, GeGLU, soft cap, rounding to bfloat16. Rows are independent, so callers
// split them over threads freely.
#pragma once

#include <cstdint>

namespace baton {

// Whether a result that feeds a matrix product is rounded to bfloat16 (kept in float32 storage).
enum class Rounding { kNone, kBf16 };

// y = x / sqrt(mean(x^2) + epsilon) * scale, over n elements; y may be x. Gemma's scale is 1 + weight.
void RmsNorm(const float* x, const float* scale, float epsilon, int64_t n, Rounding rounding, float* y);

// What a block leaves behind and the next one reads, in one pass:
//   residual += update, or RMSNorm(update) where update_scale is given;  normed = RMSNorm(residual)
struct ResidualRow {
  const float* update = nullptr;
  const float* update_scale = nullptr;  // null: the update is added as it is
  float* residual = nullptr;            // in and out
  const float* norm_scale = nullptr;
  float* normed = nullptr;  // null: not wanted. Rounded as asked for.
};
void AddRmsNorm(const ResidualRow& row, float epsilon, int64_t n, Rounding rounding);

// y = gelu_tanh(gate) * up; y may be one of them. gelu_tanh(x) = 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))).
void GeluGate(const float* gate, const float* up, int64_t n, Rounding rounding, float* y);

// x = cap * tanh(x / cap)
void SoftCap(float cap, int64_t n, float* x);

// The nearest bfloat16 of each element.
void StoreAsBf16(const float* x, int64_t n, uint16_t* to);

// Definitions in double precision, for tests.
void RmsNormReference(const float* x, const float* scale, float epsilon, int64_t n, float* y);
double GeluReference(double x);
double SoftCapReference(double cap, double x);

}  // namespace baton
