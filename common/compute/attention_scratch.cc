#include "common/compute/attention_scratch.h"

#include <algorithm>
#include <memory>
#include <utility>

namespace baton {
namespace {

constexpr size_t kLine = 64;

}  // namespace

const AttentionScratch& AttentionScratchMemory::ForHeads(int head_dim) {
  const int64_t dim = (int64_t{head_dim} + 31) / 32 * 32;
  if (dim == scratch_.dim) return scratch_;
  const int64_t row = dim * static_cast<int64_t>(sizeof(float));
  const int64_t query_bytes = kMaxTileQueries * row;
  const int64_t block_bytes = kKeyBlock * row;
  const int64_t score_bytes = kMaxTileQueries * kKeyBlock * static_cast<int64_t>(sizeof(float));
  const int64_t vector_bytes = kMaxTileQueries * static_cast<int64_t>(sizeof(float));
  memory_.resize(2 * query_bytes + 3 * block_bytes + 2 * score_bytes + 3 * vector_bytes + row + kLine);
  void* start = memory_.data();
  size_t room = memory_.size();
  auto* at = static_cast<std::byte*>(std::align(kLine, kLine, start, room));
  // Every part is a whole number of cache lines.
  const auto take = [&](int64_t bytes) { return std::exchange(at, at + bytes); };
  scratch_.dim = dim;
  scratch_.queries = take(query_bytes);
  scratch_.keys = take(block_bytes);
  scratch_.values = take(block_bytes);
  scratch_.weights = take(score_bytes);
  scratch_.scores = reinterpret_cast<float*>(take(score_bytes));
  scratch_.outputs = reinterpret_cast<float*>(take(query_bytes));
  scratch_.maxima = reinterpret_cast<float*>(take(vector_bytes));
  scratch_.sums = reinterpret_cast<float*>(take(vector_bytes));
  scratch_.factors = reinterpret_cast<float*>(take(vector_bytes));
  scratch_.padded = take(block_bytes);
  std::byte* zeros = take(row);
  std::fill(zeros, zeros + row, std::byte{0});
  scratch_.zeros = zeros;
  return scratch_;
}

}  // namespace baton
