// Softmax attention of a few query vectors over the keys and values of one kv head.
//
// The arithmetic of a query depends only on its vector and on the keys it sees, in ascending position: not on how they
// are cut into pieces (pages, ring wrap-around), nor on which queries share the tile. So any chunking of a prompt and
// any layout of the state give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"
#include "common/compute/linear.h"

namespace baton {

// Keys and values of `count` consecutive positions: row i is at + i * head_dim elements.
struct KeyValueRows {
  const std::byte* keys = nullptr;
  const std::byte* values = nullptr;
  int64_t first_position = 0;
  int64_t count = 0;
};

struct AttentionQuery {
  const float* query = nullptr;  // [head_dim], after RoPE
  float* output = nullptr;       // [head_dim]
  // Positions it sees: [begin, end).
  int64_t begin = 0;
  int64_t end = 0;
};

struct AttentionShape {
  int head_dim = 0;
  float scale = 1;
  float soft_cap = 0;                      // 0: none; applied to the scaled scores, before the softmax
  WeightType element = WeightType::kBf16;  // of keys and values
  bool round_output = false;               // to bfloat16, for the output projection
};

inline constexpr int kMaxTileQueries = 4;

// output = softmax(softcap(scale * query . keys)) . values, for 1..kMaxTileQueries queries. `rows` cover, in ascending
// order and without holes, all positions that any query sees.
void Attend(const AttentionShape& shape, absl::Span<const KeyValueRows> rows, absl::Span<const AttentionQuery> queries);

// The same for one query in double precision.
void AttendReference(const AttentionShape& shape, absl::Span<const KeyValueRows> rows, const AttentionQuery& query);

}  // namespace baton
