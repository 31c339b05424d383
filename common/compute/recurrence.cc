#include "common/compute/recurrence.h"

#include <cmath>
#include <vector>

#define BATON_ISA_BODY "common/compute/recurrence.inc"
#include "common/compute/each_isa.inc"

namespace baton {

void CausalConv(const ConvRun& run, int64_t begin, int64_t end) { BATON_PICK_ISA(ConvChannels)(run, begin, end); }

void RgLru(const RgLruRun& run, int64_t begin, int64_t end) { BATON_PICK_ISA(RgLruChannels)(run, begin, end); }

void CausalConvReference(const ConvRun& run) {
  for (int64_t t = 0; t < run.tokens; ++t) {
    for (int64_t c = 0; c < run.channels; ++c) {
      double sum = run.bias[c];
      for (int64_t s = 0; s < run.width; ++s) {
        const float input =
            t >= s ? run.input[(t - s) * run.channels + c] : run.history[(run.width - 1 + t - s) * run.channels + c];
        sum += double{run.taps[(run.width - 1 - s) * run.channels + c]} * input;
      }
      run.output[t * run.channels + c] = static_cast<float>(sum);
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
      const float y = static_cast<float>(h[c] * run.branch[at]);
      run.output[at] = run.rounding == Rounding::kBf16 ? RoundToBf16(y) : y;
    }
  }
  for (int64_t c = 0; c < run.channels; ++c) run.state[c] = static_cast<float>(h[c]);
}

}  // namespace baton
