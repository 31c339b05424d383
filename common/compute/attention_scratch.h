// What one call of Attend works in: memory of its thread, sized by the head, not by the context.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "common/compute/attention.h"

namespace baton {

// Elements are bfloat16 on CPUs with bfloat16 dot products (where two neighbours along a sum share a 32-bit word), and
// float32 otherwise. `dim` is head_dim rounded up to 32; what exceeds head_dim is zero.
struct AttentionScratch {
  int64_t dim = 0;
  void* queries = nullptr;           // [queries, dim]
  void* keys = nullptr;              // [dim, kKeyBlock]; bfloat16: [dim / 2, kKeyBlock, 2]
  void* values = nullptr;            // [kKeyBlock, dim]; bfloat16: [kKeyBlock / 2, dim, 2]
  void* weights = nullptr;           // [queries, kKeyBlock]
  float* scores = nullptr;           // [queries, kKeyBlock]
  float* outputs = nullptr;          // [queries, dim], before the division by `sums`
  float* maxima = nullptr;           // [queries]: largest score so far
  float* sums = nullptr;             // [queries]: sum of exp(score - maximum)
  float* factors = nullptr;          // [queries]: what the block at hand scales earlier sums by
  std::byte* padded = nullptr;       // [kKeyBlock, dim] in the state's element: rows whose head_dim is not `dim`
  const std::byte* zeros = nullptr;  // [dim]: stands for positions without a row
};

class AttentionScratchMemory {
 public:
  // The same memory for the same size.
  const AttentionScratch& ForHeads(int head_dim);

 private:
  std::vector<std::byte> memory_;
  AttentionScratch scratch_;
};

// AttendTile of attention.inc on AMX.
void AttendAmx(const AttentionShape& shape, const KeyValueRows* pieces, int64_t piece_count,
               const AttentionQuery* queries, int query_count, const AttentionScratch& scratch);

}  // namespace baton
