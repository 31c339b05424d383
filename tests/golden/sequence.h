// A sequence that a test feeds to a model piece by piece, and what its state holds, as floats in position order.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/model/model.h"

namespace baton {

class Sequence {
 public:
  // A state with room for max_tokens tokens in runs of at most max_run.
  static absl::StatusOr<Sequence> Create(const Model& model, int max_run, int64_t max_tokens);

  // Consumes `tokens` in runs of max_run; returns the last position's logits.
  std::vector<float> Feed(Model& model, absl::Span<const int32_t> tokens, ForwardObserver* observer = nullptr);
  // The same in one run, with logits of every position: [tokens, vocab].
  std::vector<float> FeedForAllLogits(Model& model, absl::Span<const int32_t> tokens);

  SequenceState& state() { return state_; }
  // Everything decoding could still read, layer after layer: K and V rows of the positions needed, RG-LRU, conv inputs.
  std::vector<float> StateValues();
  // K or V of positions [begin, end), all heads: [end - begin, kv_heads, head_dim].
  std::vector<float> Keys(int layer, int64_t begin, int64_t end) { return Rows(layer, begin, end, false); }
  std::vector<float> Values(int layer, int64_t begin, int64_t end) { return Rows(layer, begin, end, true); }
  // [conv_history, width], oldest first.
  std::vector<float> ConvInputs(int layer);

 private:
  explicit Sequence(SequenceState state) : state_(std::move(state)) {}
  std::vector<float> Rows(int layer, int64_t begin, int64_t end, bool values);
  void Append(const std::byte* elements, int64_t count, std::vector<float>* out) const;

  SequenceState state_;
};

// Index of the largest; the lowest one on ties.
int32_t ArgMax(absl::Span<const float> logits);

}  // namespace baton
