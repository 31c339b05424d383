// Memory of the forward pass beyond weights and state: activations and logits of the largest batch.
//
//   const int64_t bytes = WorkspaceBytes(config, {.rows = 512, .logit_rows = 64});
#pragma once

#include <cstdint>

#include "common/model/model_config.h"

namespace baton {

struct BatchLimits {
  // Tokens of one call of Model::Forward, and those of them whose logits are wanted.
  int64_t rows = 0;
  int64_t logit_rows = 0;
};

// What ForwardPass keeps once it has seen such a batch, and the caller's logits.
int64_t WorkspaceBytes(const ModelConfig& config, const BatchLimits& limits);

}  // namespace baton
