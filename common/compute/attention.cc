#include "common/compute/attention.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "common/base/status_macros.h"
#include "common/compute/attention_scratch.h"

#define BATON_ISA_BODY "common/compute/attention.inc"
#include "common/compute/each_isa.inc"

namespace baton {
namespace {

float Element(const std::byte* data, KvElement type, int64_t index) {
  if (type == KvElement::kF32) return reinterpret_cast<const float*>(data)[index];
  return Bf16ToFloat(reinterpret_cast<const uint16_t*>(data)[index]);
}

}  // namespace

void Attend(const AttentionShape& shape, absl::Span<const KeyValueRows> rows,
            absl::Span<const AttentionQuery> queries) {
  BATON_CHECK(!rows.empty() && !queries.empty() && queries.size() <= kMaxTileQueries && shape.head_dim > 0);
  const int64_t first = rows.front().first_position;
  const int64_t last = rows.back().first_position + rows.back().count;
  for (const AttentionQuery& query : queries) {
    BATON_CHECK(first <= query.begin && query.begin < query.end && query.end <= last);
  }

  thread_local AttentionScratchMemory memory;
  const AttentionScratch& scratch = memory.ForHeads(shape.head_dim);
#if defined(__x86_64__)
  if (CurrentIsa() == Isa::kAmx && shape.element == KvElement::kBf16) {
    return AttendAmx(shape, rows.data(), static_cast<int64_t>(rows.size()), queries.data(),
                     static_cast<int>(queries.size()), scratch);
  }
#endif
  const auto kernel =
      shape.element == KvElement::kF32 ? BATON_PICK_ISA(AttendTile<float>) : BATON_PICK_ISA(AttendTile<uint16_t>);
  kernel(shape, rows.data(), static_cast<int64_t>(rows.size()), queries.data(), static_cast<int>(queries.size()),
         scratch);
}

void AttendReference(const AttentionShape& shape, absl::Span<const KeyValueRows> rows, const AttentionQuery& query) {
  std::vector<double> weights;
  double maximum = -INFINITY;
  const auto for_each_visible = [&](auto&& fn) {
    for (const KeyValueRows& piece : rows) {
      for (int64_t j = 0; j < piece.count; ++j) {
        const int64_t position = piece.first_position + j;
        if (query.begin <= position && position < query.end) fn(piece, j, position - query.begin);
      }
    }
  };
  for_each_visible([&](const KeyValueRows& piece, int64_t j, int64_t) {
    double score = 0;
    for (int d = 0; d < shape.head_dim; ++d) {
      score += double{query.query[d]} * Element(piece.keys, shape.element, j * shape.head_dim + d);
    }
    score *= shape.scale;
    if (shape.soft_cap > 0) score = shape.soft_cap * std::tanh(score / shape.soft_cap);
    weights.push_back(score);
    maximum = std::max(maximum, score);
  });
  double sum = 0;
  for (double& weight : weights) sum += weight = std::exp(weight - maximum);
  std::vector<double> output(shape.head_dim);
  for_each_visible([&](const KeyValueRows& piece, int64_t j, int64_t i) {
    for (int d = 0; d < shape.head_dim; ++d) {
      output[d] += weights[i] / sum * Element(piece.values, shape.element, j * shape.head_dim + d);
    }
  });
  for (int d = 0; d < shape.head_dim; ++d) {
    const float value = static_cast<float>(output[d]);
    query.output[d] = shape.round_output ? RoundToBf16(value) : value;
  }
}

}  // namespace baton
