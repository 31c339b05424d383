#include "common/state/state_pieces.h"

#include <algorithm>
#include <utility>

#include "common/base/status_macros.h"
#include "common/state/state_codec.h"
#include "common/state/wire_format.h"

namespace baton {
namespace {

absl::string_view View(const std::byte* data, int64_t bytes) {
  return {reinterpret_cast<const char*>(data), static_cast<size_t>(bytes)};
}

// Joins ranges that touch: of a whole page they become one.
void AddRange(absl::string_view range, std::vector<absl::string_view>* ranges) {
  if (!ranges->empty() && ranges->back().data() + ranges->back().size() == range.data()) {
    ranges->back() = {ranges->back().data(), ranges->back().size() + range.size()};
    return;
  }
  ranges->push_back(range);
}

}  // namespace

StateCutter::StateCutter(const StateLayout& layout, int64_t final_position)
    : layout_(&layout), final_position_(final_position), layers_left_(layout.layers.size()) {
  BATON_CHECK(final_position >= 1);
  next_.reserve(layout.layers.size());
  for (const LayerStateSpec& spec : layout.layers) {
    const bool recurrent = spec.kind == LayerStateSpec::Kind::kRecurrent;
    next_.push_back(recurrent ? 0 : layout.FirstNeededPosition(spec, final_position));
    if (!recurrent && next_.back() == final_position) --layers_left_;  // a window of one key
  }
}

void StateCutter::LayerDone(const SequenceState& state, int layer, int64_t position, std::vector<StatePiece>* out) {
  BATON_CHECK(position >= 0 && position <= final_position_);
  int64_t& next = next_[layer];
  if (next >= position) return;
  const bool final = position == final_position_;
  if (layout_->layers[layer].kind != LayerStateSpec::Kind::kRecurrent) {
    // Rows of a page that is still being filled wait.
    const int64_t end = final ? position : position / layout_->page_tokens * layout_->page_tokens;
    if (next < end) CutKv(state, layer, end, out);
    if (next == final_position_) --layers_left_;
    return;
  }
  if (!final) return;
  const absl::Span<const float> rg_lru = state.RgLruState(layer);
  const absl::Span<const std::byte> conv = state.ConvState(layer);
  StatePiece piece;
  piece.layer = layer;
  piece.first = position;
  AddRange(View(reinterpret_cast<const std::byte*>(rg_lru.data()), rg_lru.size() * sizeof(float)), &piece.bytes);
  AddRange(View(conv.data(), conv.size()), &piece.bytes);
  out->push_back(std::move(piece));
  next = position;
  --layers_left_;
}

void StateCutter::AllLayersDone(const SequenceState& state, std::vector<StatePiece>* out) {
  for (size_t layer = 0; layer < layout_->layers.size(); ++layer) {
    LayerDone(state, static_cast<int>(layer), state.position(), out);
  }
}

void StateCutter::CutKv(const SequenceState& state, int layer, int64_t end, std::vector<StatePiece>* out) {
  const LayerStateSpec& spec = layout_->layers[layer];
  const int64_t row_bytes = spec.head_dim * ElementBytes(layout_->element);
  constexpr int64_t kRoom = kStateFrameTargetBytes - wire::kFrameOverheadBytes - wire::kKvBytes;
  const int64_t most = std::max<int64_t>(1, kRoom / (2 * spec.kv_heads * row_bytes));
  int64_t& next = next_[layer];
  while (next < end) {
    const int64_t page_end = (next / layout_->page_tokens + 1) * layout_->page_tokens;
    StatePiece piece;
    piece.layer = layer;
    piece.first = next;
    piece.count = std::min({end, page_end, next + most}) - next;
    for (const bool values : {false, true}) {
      for (int head = 0; head < spec.kv_heads; ++head) {
        state.ForEachKvSpan(layer, head, next, next + piece.count, [&](const KvSpan& span) {
          AddRange(View(values ? span.values : span.keys, span.count * row_bytes), &piece.bytes);
        });
      }
    }
    next += piece.count;
    out->push_back(std::move(piece));
  }
}

}  // namespace baton
