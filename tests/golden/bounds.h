// How far from the reference a result may be, per quantity and precision of the weights, and why.
#pragma once

#include <limits>

#include "absl/strings/string_view.h"
#include "common/model/model.h"

namespace baton {

// Every limit that is set must hold.
struct Bound {
  static constexpr double kNone = std::numeric_limits<double>::infinity();
  double max_abs = kNone;       // largest |difference|
  double rms = kNone;           // root mean square of the differences
  double relative_rms = kNone;  // rms, over the root mean square of the reference
};

struct Bounds {
  Bound prompt_logits;          // last position of prompts up to 150 tokens
  Bound every_position_logits;  // of one prompt
  Bound step_logits;            // greedy decoding
  Bound long_logits;            // last position of 1000 tokens
  Bound hidden;                 // residual stream
  Bound state;                  // K, V, RG-LRU, conv
  // A greedy token must be the reference's where the reference's margin is at least this; kNone: none is compared.
  double margin = 0;
  // Between chunkings and batches of the same prompt; 0: same bits.
  double invariance = 0;
  double long_invariance = 0;
  absl::string_view reason;
};

const Bounds& BoundsFor(WeightPrecision weights);

}  // namespace baton
