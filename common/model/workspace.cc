#include "common/model/workspace.h"

#include <algorithm>

namespace baton {

// The row buffers at the end of forward.h, all float32, and the activations of one matrix product (matmul.cc), which
// take four bytes each at most.
int64_t WorkspaceBytes(const ModelConfig& config, const BatchLimits& limits) {
  constexpr int64_t kHiddenBuffers = 3;
  constexpr int64_t kMlpBuffers = 2;
  constexpr int64_t kLruBuffers = 7;
  const bool recurrent = std::count(config.mixers.begin(), config.mixers.end(), MixerKind::kRecurrent) > 0;
  const int64_t attention = 2 * int64_t{config.QueryWidth()} + 2 * int64_t{config.KvWidth()};
  const int64_t widest = std::max({int64_t{config.hidden_size}, int64_t{config.mlp_width}, int64_t{config.QueryWidth()},
                                   recurrent ? int64_t{config.lru_width} : 0});
  const int64_t row = widest + kHiddenBuffers * config.hidden_size + attention +
                      kMlpBuffers * int64_t{config.mlp_width} +
                      (recurrent ? kLruBuffers * int64_t{config.lru_width} : 0);
  const int64_t logit_row = int64_t{config.hidden_size} + config.vocab_size;
  return static_cast<int64_t>(sizeof(float)) * (limits.rows * row + limits.logit_rows * logit_row);
}

}  // namespace baton
