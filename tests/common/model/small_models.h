// Small synthetic models of all three families, and their logits.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "common/model/model.h"

namespace baton {

// One checkpoint directory per (golden config, element type), for all tests of the program.
const std::string& CheckpointDirectory(const std::string& config_name, TensorType dtype);

std::unique_ptr<Model> LoadModel(const std::string& directory, WeightPrecision weights, int threads = 1);

// Of all states that NewState makes, and their forks.
MemoryBudget& Budget();
SequenceState NewState(const Model& model, int max_run = 64, int64_t max_tokens = 200);

// BOS and ordinary tokens, other ones for another seed.
std::vector<int32_t> Prompt(int length, int seed = 1);

// Logits of every token.
std::vector<float> Logits(Model& model, SequenceState& state, absl::Span<const int32_t> tokens);

bool SameBits(const std::vector<float>& a, const std::vector<float>& b);

}  // namespace baton
