// Grouped-query attention, global or over a sliding window: q, k, v projections, RoPE, softmax attention over the
// state, output projection. A run's keys and values are in the state before any of its queries attends.
#include <algorithm>
#include <vector>

#include "common/model/forward.h"

namespace baton {
namespace {

// Work shares a thread should find, so that all end together.
constexpr int64_t kSharesPerThread = 4;
// Below this, bringing keys into form costs more than another thread saves, unless it would be idle.
constexpr int64_t kSmallTile = 16;

}  // namespace

// Tiles are large, for what their queries share, but not so large that threads idle.
void ForwardPass::PlanTiles() {
  const int64_t group = config_.num_heads / config_.num_kv_heads;
  const auto shares = [&](int64_t size) {
    int64_t tiles = 0;
    for (const SequenceRun& run : runs_) tiles += (static_cast<int64_t>(run.tokens.size()) * group - 1) / size + 1;
    return tiles * config_.num_kv_heads;
  };
  int64_t size = kMaxTileQueries;
  while (size > kSmallTile && shares(size) < kSharesPerThread * pool_.threads()) size /= 2;
  while (size > 1 && shares(size) < pool_.threads()) size /= 2;

  tiles_.clear();
  int64_t work = 0;
  for (size_t r = 0; r < runs_.size(); ++r) {
    const int64_t pairs = static_cast<int64_t>(runs_[r].tokens.size()) * group;
    const int64_t count = (pairs - 1) / size + 1;
    for (int64_t i = 0; i < count; ++i) {
      const int64_t first = pairs * i / count;
      const int64_t end = pairs * (i + 1) / count;
      const int64_t keys = runs_[r].state->position() + (end - 1) / group + 1;
      tiles_.push_back({static_cast<int64_t>(r), first, end - first, (end - first) * keys});
      work += tiles_.back().work;
    }
  }
  std::sort(tiles_.begin(), tiles_.end(),
            [](const AttentionTile& a, const AttentionTile& b) { return a.work > b.work; });
  const int64_t mean_work = work / static_cast<int64_t>(tiles_.size()) + 1;
  tile_grain_ = Grain(2 * mean_work * config_.head_dim);
}

void ForwardPass::AttentionBlock(int layer, const AttentionWeights& weights, const float* x, float* y) {
  const int64_t query_width = config_.QueryWidth();
  const int64_t kv_width = config_.KvWidth();
  float* q = q_.Resize(rows_, query_width);
  float* k = k_.Resize(rows_, kv_width);
  float* v = v_.Resize(rows_, kv_width);
  Apply(weights.q, x, q);
  Apply(weights.k, x, k);
  Apply(weights.v, x, v);

  ForEachRow(rows_, query_width + 2 * kv_width, [&](int64_t row) {
    float* row_k = k + row * kv_width;
    rope_.Rotate(row, config_.num_heads, config_.head_dim, q + row * query_width);
    rope_.Rotate(row, config_.num_kv_heads, config_.head_dim, row_k);
    runs_[run_of_row_[row]].state->WriteKv(layer, positions_[row], {row_k, static_cast<size_t>(kv_width)},
                                           {v + row * kv_width, static_cast<size_t>(kv_width)});
  });

  float* attended = attended_.Resize(rows_, query_width);
  const int64_t kv_heads = config_.num_kv_heads;
  // Tiles that see most come first, so that threads end together.
  pool_.ParallelFor(static_cast<int64_t>(tiles_.size()) * kv_heads, tile_grain_, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      AttendTileOf(layer, tiles_[i / kv_heads], static_cast<int>(i % kv_heads), q, attended);
    }
  });
  Apply(weights.o, attended, y);
}

void ForwardPass::AttendTileOf(int layer, const AttentionTile& tile, int kv_head, const float* q, float* attended) {
  const bool window = config_.mixers[layer] == MixerKind::kWindowAttention;
  const int64_t group = config_.num_heads / config_.num_kv_heads;

  AttentionQuery queries[kMaxTileQueries];
  for (int64_t i = 0; i < tile.pairs; ++i) {
    const int64_t pair = tile.first_pair + i;
    const int64_t row = first_rows_[tile.run] + pair / group;
    const int64_t head = kv_head * group + pair % group;
    const int64_t at = row * config_.QueryWidth() + head * config_.head_dim;
    const int64_t end = positions_[row] + 1;  // itself included
    const int64_t begin = window ? std::max<int64_t>(0, end - config_.visible_keys) : 0;
    queries[i] = {q + at, attended + at, begin, end};
  }

  // Pairs ascend by row, so the first sees the oldest key and the last the newest.
  thread_local std::vector<KeyValueRows> rows;
  rows.clear();
  runs_[tile.run].state->ForEachKvSpan(layer, kv_head, queries[0].begin, queries[tile.pairs - 1].end,
                                       [](const KvSpan& span) {
                                         rows.push_back({span.keys, span.values, span.first_position, span.count});
                                       });

  AttentionShape shape;
  shape.head_dim = config_.head_dim;
  shape.scale = config_.attention_scale;
  shape.soft_cap = config_.attention_soft_cap;
  shape.element = state_element_ == ElementType::kF32 ? KvElement::kF32 : KvElement::kBf16;
  shape.round_output = rounding_ == Rounding::kBf16;
  Attend(shape, rows, {queries, static_cast<size_t>(tile.pairs)});
}

}  // namespace baton
