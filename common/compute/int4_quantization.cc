#include "common/compute/int4_quantization.h"

#include <limits>

namespace baton {
namespace {

constexpr int kCount = static_cast<int>(kInt4ScaleInputs);
constexpr float kLeastNormal = std::numeric_limits<float>::min();

// The group's largest magnitude is tried around both ends of the table: beyond an end it is cut off, and the others get
// finer steps. More tries gain less than 0.1 % of the error.
constexpr float kStretches[] = {0.94f, 1.0f, 1.05f, 1.1f, 1.16f, 1.24f};
constexpr int kStretchCount = sizeof(kStretches) / sizeof(kStretches[0]);

}  // namespace
}  // namespace baton

#define BATON_ISA_BODY "common/compute/int4_quantization.inc"
#include "common/compute/each_isa.inc"

namespace baton {

Int4Group QuantizeInt4(const float* weights) {
  Int4Group group;
  BATON_PICK_ISA(Quantize)(weights, &group);
  return group;
}

}  // namespace baton
