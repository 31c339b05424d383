#include "common/compute/rowwise.h"

#include <cmath>
#include <numbers>

#define BATON_ISA_BODY "common/compute/rowwise.inc"
#include "common/compute/each_isa.inc"

namespace baton {

void RmsNorm(const float* x, const float* scale, float epsilon, int64_t n, Rounding rounding, float* y) {
  BATON_PICK_ISA(RmsNormRow)(x, scale, epsilon, n, rounding == Rounding::kBf16, y);
}

void GeluGate(const float* gate, const float* up, int64_t n, Rounding rounding, float* y) {
  BATON_PICK_ISA(GeluGateRow)(gate, up, n, rounding == Rounding::kBf16, y);
}

void Gelu(int64_t n, float* x) { BATON_PICK_ISA(GeluRow)(n, x); }

void SoftCap(float cap, int64_t n, float* x) { BATON_PICK_ISA(SoftCapRow)(cap, n, x); }

void AddTo(const float* x, int64_t n, float* y) { BATON_PICK_ISA(AddRow)(x, n, y); }

void RoundRow(int64_t n, float* x) { BATON_PICK_ISA(RoundRowToBf16)(n, x); }

void RmsNormReference(const float* x, const float* scale, float epsilon, int64_t n, float* y) {
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += double{x[i]} * x[i];
  const double root = std::sqrt(squares / static_cast<double>(n) + epsilon);
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<float>(x[i] / root * scale[i]);
}

double GeluReference(double x) {
  const double u = std::sqrt(2.0 / std::numbers::pi) * (x + 0.044715 * x * x * x);
  return 0.5 * x * (1.0 + std::tanh(u));
}

double SoftCapReference(double cap, double x) { return cap * std::tanh(x / cap); }

}  // namespace baton
