// Rotary position embedding, in the half-split pairing of Gemma and RecurrentGemma: element i of a head is rotated with
// element i + rotary_dim / 2 by the angle position * theta^(-2i / rotary_dim). Dims from rotary_dim on pass through.
//
//   RopeTable table(theta, rotary_dim);
//   table.Prepare(pool, positions);                 // once a forward pass, for all its rows
//   table.Rotate(row, heads, head_dim, vectors);    // every layer, q and k
#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "common/base/thread_pool.h"

namespace baton {

class RopeTable {
 public:
  RopeTable(double theta, int rotary_dim);

  // Sines and cosines of row r, at absolute position positions[r]. Angles are formed in double: in float32 they would
  // be off by 1e-4 at position 1000.
  void Prepare(ThreadPool& pool, absl::Span<const int64_t> positions);
  // vectors: [heads, head_dim], in place.
  void Rotate(int64_t row, int heads, int head_dim, float* vectors) const;

 private:
  int half_;
  std::vector<double> frequencies_;  // [half]
  std::vector<float> cosines_;       // [rows, half]
  std::vector<float> sines_;
};

}  // namespace baton
