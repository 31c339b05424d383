// What a model's arithmetic and memory traffic come to: the numerators of every "fraction of what the machine can do".
// Pure functions of the config.
//
//   linear layers        2 FLOP per parameter outside the embedding, for every token
//   output head          2 * vocab_size * hidden_size FLOP, for every token whose logits are wanted
//   attention            4 * heads * head_dim FLOP for every key a query sees (QK^T and PV)
//   scan, norms, conv    left out: below 0.1 %
//   bytes of a step      all weights once (the tied head reads the whole embedding), and of every sequence the keys and
//                        values its query sees and the recurrent vectors
#pragma once

#include <cstdint>

#include "common/model/model_config.h"

namespace baton {

int64_t NonEmbeddingParameters(const ModelConfig& config);

// Keys that a query at `position` sees, summed over the attention layers.
int64_t VisibleKeys(const ModelConfig& config, int64_t position);

// A prompt of `tokens` tokens from an empty state, logits at its end.
double PrefillFlops(const ModelConfig& config, int64_t tokens);
// One token of one sequence at `position`, with logits.
double DecodeFlops(const ModelConfig& config, int64_t position);

// State one sequence reads for a token at `position`. `element_bytes`: of keys, values and conv inputs.
int64_t StateReadBytes(const ModelConfig& config, int64_t position, int element_bytes);

}  // namespace baton
