// The weights of a model in the form its forward pass wants them: matrices packed (packed_matrix.h), small vectors as
// float32.
//
// Planning reads the vectors and says which matrices there are, before anything large is allocated; loading fills them.
//
//   BATON_ASSIGN_OR_RETURN(WeightPlan plan, PlanWeights(checkpoint, WeightPrecision::kInt8));
//   CheckMemory(plan.weights->bytes);
//   BATON_ASSIGN_OR_RETURN(auto weights, LoadWeights(checkpoint, std::move(plan), cache_dir, pool, observer));
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/base/thread_pool.h"
#include "common/compute/packed_matrix.h"
#include "common/model/checkpoint.h"
#include "common/model/load_observer.h"
#include "common/model/matrix_source.h"
#include "common/model/packed_weights.h"

namespace baton {

struct LinearLayer {
  PackedMatrix matrix;
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
  // One [block, block] matrix per head; the file has them as [in, out].
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
  PackedMatrix embedding;  // [vocab, hidden]: input table and output head
  std::vector<LayerWeights> layers;
  NormScale final_norm;
  // Of all matrices and vectors, in memory or mapped.
  int64_t bytes = 0;
  // What matrices point into, unless it is the checkpoint.
  PackedWeights packed;
};

struct WeightPlan {
  std::unique_ptr<ModelWeights> weights;
  // Matrices that have no bytes yet.
  std::vector<MatrixSource> sources;
  // The others: float32 in the checkpoint and here, used where they are.
  std::vector<TensorView> in_place;
};

// Touches no matrix.
absl::StatusOr<WeightPlan> PlanWeights(const Checkpoint& checkpoint, WeightPrecision precision);

// The result points into `checkpoint`'s mapping where its matrices are used in place. See PackWeights for the rest.
absl::StatusOr<std::unique_ptr<ModelWeights>> LoadWeights(const Checkpoint& checkpoint, WeightPlan plan,
                                                          const std::string& cache_dir, ThreadPool& pool,
                                                          const LoadObserver& observer);

}  // namespace baton
