#include "common/compute/recurrence.h"

#include <cmath>
#include <vector>

#define BATON_ISA_BODY "common/compute/recurrence.inc"
#include "common/compute/each_isa.inc"

namespace baton {

void CausalConv(const ConvRun& run, int64_t begin, int64_t end) { BATON_PICK_ISA(ConvChannels)(run, begin, end); }

void RgLru(const RgLruRun& run, int64_t begin, int64_t end) { BATON_PICK_ISA(RgLruChannels)(run, begin, end); }

void CausalConvReference(const ConvRun& run) {
  const bool round = run.rounding == Rounding::kBf16;
  const int64_t past = run.width - 1;
  // x[s, c] of the definition, history and run in one.
  std::vector<float> inputs;
  for (int64_t i = 0; i < past * run.channels; ++i) {
    inputs.push_back(round ? Bf16ToFloat(static_cast<const uint16_t*>(run.history)[i])
                           : static_cast<const float*>(run.history)[i]);
  }
  for (int64_t i = 0; i < run.tokens * run.channels; ++i) {
    inputs.push_back(round ? RoundToBf16(run.input[i]) : run.input[i]);
  }
  for (int64_t t = 0; t < run.tokens; ++t) {
    for (int64_t c = 0; c < run.channels; ++c) {
      double sum = run.bias[c];
      for (int64_t s = 0; s < run.width; ++s) {
        sum += double{run.taps[(past - s) * run.channels + c]} * inputs[(past + t - s) * run.channels + c];
      }
      const int64_t at = t * run.channels + c;
      run.output[at] = static_cast<float>(sum);
      if (run.rounded != nullptr) run.rounded[at] = RoundToBf16(run.output[at]);
    }
  }
  for (int64_t i = 0; i < past * run.channels; ++i) {
    const float input = inputs[run.tokens * run.channels + i];
    if (round) {
      static_cast<uint16_t*>(run.history)[i] = FloatToBf16(input);
    } else {
      static_cast<float*>(run.history)[i] = input;
    }
  }
}

void RgLruReference(const RgLruRun& run) {
  const auto sigmoid = [](double x) { return 1.0 / (1.0 + std::exp(-x)); };
  std::vector<double> h(run.state, run.state + run.channels);
  for (int64_t t = 0; t < run.tokens; ++t) {
    for (int64_t c = 0; c < run.channels; ++c) {
      const int64_t at = t * run.channels + c;
      const double log_a = double{run.decay[c]} * sigmoid(run.recurrence_gate[at]);
      const bool first = run.first_position + t == 0;
      const double a = first ? 0.0 : std::exp(log_a);
      const double m = first ? 1.0 : std::sqrt(-std::expm1(2.0 * log_a));
      h[c] = a * h[c] + m * sigmoid(run.input_gate[at]) * run.x[at];
      const float y = static_cast<float>(h[c] * GeluReference(run.branch[at]));
      run.output[at] = run.rounding == Rounding::kBf16 ? RoundToBf16(y) : y;
    }
  }
  for (int64_t c = 0; c < run.channels; ++c) run.state[c] = static_cast<float>(h[c]);
}

}  // namespace baton
