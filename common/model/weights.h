// The weights of a model in the form its forward pass wants them: matrices [outputs, inputs] in the compute type, used
// in place from the mapped file where the file already has that type and converted otherwise; small vectors as float32.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/thread_pool.h"
#include "common/compute/linear.h"
#include "common/model/checkpoint.h"
#include "common/model/model.h"

namespace baton {

struct LinearLayer {
  WeightMatrix matrix;
  std::vector<float> bias;  // [outputs], or empty

  const float* bias_or_null() const { return bias.empty() ? nullptr : bias.data(); }
};

// Gemma's norms multiply by 1 + weight; these vectors hold the sum.
using NormScale = std::vector<float>;  // [hidden]

struct AttentionWeights {
  LinearLayer q;  // [heads * head_dim, hidden]
  LinearLayer k;  // [kv_heads * head_dim, hidden]
  LinearLayer v;
  LinearLayer o;  // [hidden, heads * head_dim]
};

struct RecurrentWeights {
  LinearLayer linear_x;  // [lru_width, hidden]
  LinearLayer linear_y;
  LinearLayer linear_out;        // [hidden, lru_width]
  std::vector<float> conv_taps;  // [conv_width, lru_width]; the file has [lru_width, 1, conv_width]
  std::vector<float> conv_bias;  // [lru_width]
  std::vector<float> decay;      // [lru_width]: -8 softplus(recurrent_param)
  // One [block, block] matrix per head, turned from the file's [in, out] to [out, in].
  std::vector<LinearLayer> recurrence_gates;
  std::vector<LinearLayer> input_gates;
};

struct MlpWeights {
  LinearLayer gate;  // [mlp_width, hidden]
  LinearLayer up;
  LinearLayer down;  // [hidden, mlp_width]
};

struct LayerWeights {
  NormScale mixer_norm;
  // The one that config.mixers calls for is filled.
  AttentionWeights attention;
  RecurrentWeights recurrent;
  NormScale mixer_output_norm;  // empty unless config.post_norms
  NormScale mlp_norm;
  MlpWeights mlp;
  NormScale mlp_output_norm;  // empty unless config.post_norms
};

struct ModelWeights {
  WeightMatrix embedding;  // [vocab, hidden]: input table and output head
  std::vector<LayerWeights> layers;
  NormScale final_norm;
  // Bytes of all matrices and vectors, mapped or converted.
  int64_t bytes = 0;
  // What converted matrices point into.
  std::vector<std::unique_ptr<std::byte[]>> converted;
};

// The result points into `checkpoint`'s mapping. Mapped weights are touched once, so that the first request does not
// wait for the disk. RESOURCE_EXHAUSTED when converted weights do not fit into memory.
absl::StatusOr<ModelWeights> LoadWeights(const Checkpoint& checkpoint, ComputeMode compute, ThreadPool& pool,
                                         const std::function<void(int64_t, int64_t)>& progress);

}  // namespace baton
