#include "common/compute/rowwise.h"

#include <cmath>
#include <numbers>

#define BATON_ISA_BODY "common/compute/rowwise.inc"
#include "common/compute/each_isa.inc"

namespace baton {

void RmsNorm(const float* x, const float* scale, float epsilon, int64_t n, Rounding rounding, float* y) {
  BATON_PICK_ISA(RmsNormRow)(x, scale, epsilon, n, rounding == Rounding::kBf16, y);
}

void AddRmsNorm(const ResidualRow& row, float epsilon, int64_t n, Rounding rounding) {
  BATON_PICK_ISA(AddRmsNormRow)(row, epsilon, n, rounding == Rounding::kBf16);
}

void GeluGate(const float* gate, const float* up, int64_t n, Rounding rounding, float* y) {
  BATON_PICK_ISA(GeluGateRow)(gate, up, n, rounding == Rounding::kBf16, y);
}

void SoftCap(float cap, int64_t n, float* x) { BATON_PICK_ISA(SoftCapRow)(cap, n, x); }

void StoreAsBf16(const float* x, int64_t n, uint16_t* to) { BATON_PICK_ISA(StoreRowAsBf16)(x, n, to); }

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
