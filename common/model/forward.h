// The forward pass: a walk over a config's blocks, with the rows of all runs side by side. Read Run in forward.cc top
// to bottom; the two kinds of sequence mixer are in attention_block.cc and recurrent_block.cc.
//
// Nothing here depends on how rows are grouped: linear layers treat rows alike, everything else is per row or, in the
// mixers, per sequence in ascending position.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "common/base/thread_pool.h"
#include "common/compute/attention.h"
#include "common/compute/rope.h"
#include "common/compute/rowwise.h"
#include "common/model/model.h"
#include "common/model/weights.h"

namespace baton {

// Floats that grow to the largest batch met and stay.
class RowBuffer {
 public:
  // [rows, width]; contents are whatever was there.
  float* Resize(int64_t rows, int64_t width) {
    const size_t size = static_cast<size_t>(rows * width);
    if (data_.size() < size) data_.resize(size);
    return data_.data();
  }

 private:
  std::vector<float> data_;
};

class ForwardPass {
 public:
  // All arguments must outlive the pass.
  ForwardPass(const ModelConfig& config, const ModelWeights& weights, ComputeMode compute, ThreadPool& pool);

  // Model::Forward. The batch has been checked.
  void Run(absl::Span<const SequenceRun> runs, absl::Span<float> logits, ForwardObserver* observer,
           const LayerDone& layer_done);

 private:
  // Up to kMaxTileQueries (row, query head) pairs of one run that share a kv head. Pair p is row p / group, head
  // p % group of the kv head's group.
  struct AttentionTile {
    int64_t run;
    int64_t first_pair;
    int64_t pairs;
    int64_t work;  // pairs times keys seen
  };

  void PlanRows(absl::Span<const SequenceRun> runs);
  // Cuts the runs into tiles, in attention_block.cc.
  void PlanTiles();
  void Embed();
  // y = RMSNorm(x) for all rows, rounded for a matrix product.
  void Normalize(const float* x, const NormScale& scale, float* y);
  // residual += y, or residual += RMSNorm(y) where `output_norm` is not empty; then, where there is a next block,
  // normed = RMSNorm(residual), rounded for a matrix product.
  void AddToResidual(const NormScale& output_norm, const float* y, const NormScale* next_norm);
  void Apply(const LinearLayer& layer, const float* x, float* y);
  void AttentionBlock(int layer, const AttentionWeights& weights, const float* x, float* y);
  void AttendTileOf(int layer, const AttentionTile& tile, int kv_head, const float* q, float* attended);
  void RecurrentBlock(int layer, const RecurrentWeights& weights, const float* x, float* y);
  // gate_input: [rows, lru_width], rounded for a matrix product.
  void ComputeGates(const RecurrentWeights& weights, const float* gate_input);
  void ConvolveRun(int layer, const RecurrentWeights& weights, int64_t run, int64_t begin, int64_t end);
  void MlpBlock(const MlpWeights& weights, const float* x, float* y);
  void OutputHead(absl::Span<float> logits);
  void Observe(ForwardObserver& observer, const std::string& what, const float* rows) const;
  // How many pieces of work, each of `operations` multiply-adds, one thread should take at a time: waking another for
  // less costs more than it saves. Only who does what depends on it, never a result.
  static int64_t Grain(int64_t operations);
  // Splits rows of `width` floats over the threads.
  void ForEachRow(int64_t rows, int64_t width, absl::FunctionRef<void(int64_t row)> fn);

  const ModelConfig& config_;
  const ModelWeights& weights_;
  ThreadPool& pool_;
  const Rounding rounding_;  // of what enters a matrix product
  const ElementType state_element_;
  const float embedding_scale_;
  RopeTable rope_;

  // The batch at hand.
  absl::Span<const SequenceRun> runs_;
  int64_t rows_ = 0;
  std::vector<int64_t> first_rows_;   // [runs]: row of each run's first token
  std::vector<int32_t> tokens_;       // [rows]
  std::vector<int64_t> positions_;    // [rows]
  std::vector<int64_t> run_of_row_;   // [rows]
  std::vector<int64_t> logit_rows_;   // rows whose logits are wanted
  std::vector<AttentionTile> tiles_;  // most work first
  int64_t tile_grain_ = 1;            // tiles of one thread's share

  RowBuffer residual_, normed_, mixed_;                               // [rows, hidden]
  RowBuffer q_, k_, v_, attended_;                                    // [rows, query or kv width]
  RowBuffer lru_input_, lru_branch_, lru_x_, lru_rounded_, lru_out_;  // [rows, lru_width]
  RowBuffer recurrence_gate_, input_gate_;                            // [rows, lru_width]
  RowBuffer gate_, up_;                                               // [rows, mlp_width]
  RowBuffer head_input_;                                              // [rows wanted, hidden]
};

}  // namespace baton
