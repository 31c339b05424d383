// Softmax attention of query vectors over the keys and values of one kv head.
//
// Keys are taken in blocks of kKeyBlock positions that begin at multiples of kKeyBlock, whatever the sequence, its
// pages or its window, and the softmax is carried from block to block (Milakov and Gimelshein, arXiv 1805.02867; in
// blocks: Dao et al., arXiv 2205.14135). So a query's bits depend only on its vector, its position and the keys it
// sees: not on how they are cut into pieces (pages), nor on which queries share the call, nor on whether this is
// prefill or decode. Blocks that no query sees are not touched; scratch does not grow with the context.
//
// bf16 keys and values: queries and softmax weights are rounded to bfloat16 too, and all sums are float32.
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/types/span.h"

namespace baton {

// In what precision the state holds keys and values.
enum class KvElement { kF32, kBf16 };

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
  float soft_cap = 0;  // 0: none; applied to the scaled scores, before the softmax
  KvElement element = KvElement::kBf16;
  bool round_output = false;  // to bfloat16, for the output projection
};

inline constexpr int kKeyBlock = 64;
// More share the work of bringing keys into the form the kernels read; 64 of Gemma's 256 dims keep to a 1 MiB cache.
inline constexpr int kMaxTileQueries = 64;

// output = softmax(softcap(scale * query . keys)) . values, for 1..kMaxTileQueries queries. `rows` cover, in ascending
// order and without holes, all positions that any query sees.
void Attend(const AttentionShape& shape, absl::Span<const KeyValueRows> rows, absl::Span<const AttentionQuery> queries);

// The same for one query in double precision, without rounding but the output's.
void AttendReference(const AttentionShape& shape, absl::Span<const KeyValueRows> rows, const AttentionQuery& query);

}  // namespace baton
