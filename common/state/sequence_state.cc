#include "common/state/sequence_state.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/compute/rowwise.h"

namespace baton {
namespace {

using Kind = LayerStateSpec::Kind;

void StoreRow(const float* from, int64_t count, ElementType element, std::byte* to) {
  if (element == ElementType::kF32) {
    std::memcpy(to, from, count * sizeof(float));
    return;
  }
  StoreAsBf16(from, count, reinterpret_cast<uint16_t*>(to));
}

absl::Status OutOfMemory() {
  return absl::ResourceExhaustedError(
      "the system refused memory for a sequence state; lower --memory to what the machine has");
}

// Of one layer: more than any machine holds, and few enough that a table of them can be asked for.
constexpr int64_t kMaxPages = int64_t{1} << 28;

}  // namespace

SequenceState SequenceState::MakeEmpty(std::shared_ptr<const StateLayout> layout, int64_t max_tokens,
                                       int64_t position) {
  SequenceState state;
  state.max_tokens_ = max_tokens;
  state.position_ = position;
  state.layers_.resize(layout->layers.size());
  for (size_t i = 0; i < layout->layers.size(); ++i) {
    const LayerStateSpec& spec = layout->layers[i];
    Layer& layer = state.layers_[i];
    layer.kind = spec.kind;
    if (spec.kind == Kind::kRecurrent) continue;
    layer.page_bytes = layout->PageBytes(spec);
    layer.row_bytes = spec.head_dim * ElementBytes(layout->element);
    layer.total_pages = (max_tokens - 1) / layout->page_tokens + 1;
    layer.first_own = position / layout->page_tokens;
    layer.reserved = std::min(layout->KvPages(spec, max_tokens), layer.total_pages - layer.first_own);
  }
  state.layout_ = std::move(layout);
  return state;
}

absl::Status SequenceState::MakeTables(MemoryReservation reservation) {
  reservation_ = std::move(reservation);
  try {
    for (size_t i = 0; i < layers_.size(); ++i) {
      if (layers_[i].kind == Kind::kRecurrent) continue;
      const int64_t pages = layout_->KvPages(layout_->layers[i], max_tokens_);
      if (pages > kMaxPages) return OutOfMemory();
      layers_[i].slots.resize(pages);
    }
  } catch (const std::exception&) {  // bad_alloc or length_error: a budget far beyond the machine
    return OutOfMemory();
  }
  return absl::OkStatus();
}

absl::StatusOr<SequenceState> SequenceState::Create(std::shared_ptr<const StateLayout> layout, MemoryBudget& budget,
                                                    int64_t max_tokens) {
  if (max_tokens < 1) {
    return absl::InvalidArgumentError(absl::StrCat("a sequence has at least one token, not ", max_tokens));
  }
  BATON_ASSIGN_OR_RETURN(MemoryReservation reservation, budget.Reserve(layout->BytesFor(max_tokens)));
  SequenceState state = MakeEmpty(std::move(layout), max_tokens, /*position=*/0);
  BATON_RETURN_IF_ERROR(state.MakeTables(std::move(reservation)));
  for (size_t i = 0; i < state.layers_.size(); ++i) {
    const LayerStateSpec& spec = state.layout_->layers[i];
    if (spec.kind != Kind::kRecurrent) continue;
    BATON_ASSIGN_OR_RETURN(PageRef page, state.TakeRecurrentPage(state.layout_->RecurrentBytes(spec)));
    std::memset(page.data(), 0, page.bytes());
    state.layers_[i].recurrent = std::move(page);
  }
  return state;
}

absl::StatusOr<PageRef> SequenceState::TakeRecurrentPage(int64_t bytes) {
  PageRef page = reservation_.TakePage(bytes);
  if (!page) return OutOfMemory();
  return page;
}

absl::Status SequenceState::Extend(int64_t max_tokens) {
  BATON_CHECK(max_tokens >= max_tokens_);
  const int64_t total_pages = (max_tokens - 1) / layout_->page_tokens + 1;
  std::vector<int64_t> added(layers_.size(), 0);
  int64_t bytes = 0;
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& layer = layers_[i];
    if (layer.kind == Kind::kRecurrent) continue;
    const int64_t slots = layout_->KvPages(layout_->layers[i], max_tokens);
    const int64_t needed = std::min(slots, total_pages - layer.first_own);
    added[i] = std::max<int64_t>(0, needed - layer.reserved - layer.owned);
    bytes += added[i] * layer.page_bytes;
  }
  BATON_RETURN_IF_ERROR(reservation_.Grow(bytes));
  try {
    // A table shorter than its layer's longest has every page at its own index, so pages stay where they are.
    for (size_t i = 0; i < layers_.size(); ++i) {
      if (layers_[i].kind == Kind::kRecurrent) continue;
      layers_[i].slots.resize(layout_->KvPages(layout_->layers[i], max_tokens));
    }
  } catch (const std::exception&) {
    reservation_.Shrink(bytes);
    return OutOfMemory();
  }
  for (size_t i = 0; i < layers_.size(); ++i) {
    layers_[i].reserved += added[i];
    layers_[i].total_pages = total_pages;
  }
  max_tokens_ = max_tokens;
  return absl::OkStatus();
}

int64_t SequenceState::ReservedKvBytes() const {
  int64_t bytes = 0;
  for (const Layer& layer : layers_) {
    int64_t layer_bytes;
    if (__builtin_mul_overflow(layer.reserved, layer.page_bytes, &layer_bytes) ||
        __builtin_add_overflow(bytes, layer_bytes, &bytes)) {
      return std::numeric_limits<int64_t>::max();  // which no budget holds
    }
  }
  return bytes;
}

int64_t SequenceState::bytes() const {
  int64_t bytes = reservation_.bytes();
  for (const Layer& layer : layers_) {
    bytes += layer.owned * layer.page_bytes + (layer.recurrent ? layer.recurrent.bytes() : 0);
  }
  return bytes;
}

void SequenceState::PrepareRun(int64_t tokens) {
  BATON_CHECK(tokens >= 1 && tokens <= layout_->max_run_tokens && tokens <= max_tokens_ - position_);
  if (position_ + tokens <= prepared_end_) return;
  const int64_t first_page = position_ / layout_->page_tokens;
  const int64_t last_page = (position_ + tokens - 1) / layout_->page_tokens;
  for (Layer& layer : layers_) {
    if (layer.kind == Kind::kRecurrent) continue;
    for (int64_t page = first_page; page <= last_page; ++page) WritablePage(layer, page);
  }
  prepared_end_ = (last_page + 1) * layout_->page_tokens;
}

std::byte* SequenceState::WritablePage(Layer& layer, int64_t page) {
  Slot& slot = layer.slots[page % layer.slots.size()];
  if (slot.index != page || slot.copy_on_write) MakeWritable(layer, slot, page);
  return slot.page.data();
}

void SequenceState::MakeWritable(Layer& layer, Slot& slot, int64_t page) {
  if (slot.index != page) {
    BATON_CHECK(slot.index < 0);  // else a window held more than its reservation explains
    slot.page = TakePage(layer);
    slot.index = page;
    slot.owned = true;
    return;
  }
  if (slot.page.shared()) {
    PageRef copy = TakePage(layer);
    CopyRows(layer, slot.page.data(), copy.data(), position_ - page * layout_->page_tokens);
    slot.page = std::move(copy);
  } else {
    // The others have copied it or are gone: it is this state's now, and what was reserved for a copy is not needed.
    BATON_CHECK(layer.reserved > 0);
    reservation_.Shrink(layer.page_bytes);
    --layer.reserved;
    ++layer.owned;
  }
  slot.owned = true;
  slot.copy_on_write = false;
}

PageRef SequenceState::TakePage(Layer& layer) {
  BATON_CHECK(layer.reserved > 0);
  PageRef page = reservation_.TakePage(layer.page_bytes);
  // Bytes were reserved, so the system's refusal is not an answer any caller could give.
  BATON_CHECK(page);
  --layer.reserved;
  ++layer.owned;
  return page;
}

// The first `rows` rows of every head's K and V.
void SequenceState::CopyRows(const Layer& layer, const std::byte* from, std::byte* to, int64_t rows) const {
  const int64_t head_bytes = layout_->page_tokens * layer.row_bytes;
  const int64_t used = 2 * layout_->layers[&layer - layers_.data()].kv_heads * head_bytes;
  for (int64_t at = 0; at < used; at += head_bytes) std::memcpy(to + at, from + at, rows * layer.row_bytes);
}

void SequenceState::DropPage(Layer& layer, Slot& slot) {
  if (!slot.owned) {
    slot = Slot();
    return;
  }
  const int64_t left = std::min<int64_t>(layer.slots.size(), layer.total_pages - slot.index - 1);
  --layer.owned;
  if (reservation_.TakeBack(std::move(slot.page))) {
    ++layer.reserved;
  } else if (layer.reserved + layer.owned < left) {
    // A reader still holds it.
    reservation_.GrowEvenIfFull(layer.page_bytes);
    ++layer.reserved;
  }
  slot = Slot();
}

void SequenceState::DropOldPages(int64_t old_position) {
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    if (layer.kind != Kind::kWindowKv) continue;
    const int page_tokens = layout_->page_tokens;
    const int64_t end = FirstNeededPosition(static_cast<int>(i), position_) / page_tokens;
    for (int64_t page = FirstNeededPosition(static_cast<int>(i), old_position) / page_tokens; page < end; ++page) {
      Slot& slot = layer.slots[page % layer.slots.size()];
      if (slot.index == page) DropPage(layer, slot);
    }
  }
}

SequenceState::Layer& SequenceState::KvLayer(int layer, int kv_head) {
  Layer& kv = layers_[layer];
  BATON_CHECK(kv.kind != Kind::kRecurrent);
  BATON_CHECK(kv_head >= 0 && kv_head < layout_->layers[layer].kv_heads);
  return kv;
}

std::byte* SequenceState::MutableKvRow(int layer, int kv_head, int64_t position, bool value) {
  BATON_CHECK(position >= 0 && position < max_tokens_);
  Layer& kv = KvLayer(layer, kv_head);
  const int64_t page_tokens = layout_->page_tokens;
  std::byte* page = WritablePage(kv, position / page_tokens);
  const int64_t head = kv_head + (value ? layout_->layers[layer].kv_heads : 0);
  return page + (head * page_tokens + position % page_tokens) * kv.row_bytes;
}

std::byte* SequenceState::MutableKeyRow(int layer, int kv_head, int64_t position) {
  return MutableKvRow(layer, kv_head, position, /*value=*/false);
}

std::byte* SequenceState::MutableValueRow(int layer, int kv_head, int64_t position) {
  return MutableKvRow(layer, kv_head, position, /*value=*/true);
}

void SequenceState::WriteKv(int layer, int64_t position, absl::Span<const float> k, absl::Span<const float> v) {
  const LayerStateSpec& spec = layout_->layers[layer];
  const int64_t head_dim = spec.head_dim;
  BATON_CHECK(position < position_ + layout_->max_run_tokens);
  BATON_CHECK(static_cast<int64_t>(k.size()) == spec.kv_heads * head_dim && v.size() == k.size());
  const int64_t head_bytes = layout_->page_tokens * layers_[layer].row_bytes;
  std::byte* key = MutableKeyRow(layer, /*kv_head=*/0, position);
  std::byte* value = key + spec.kv_heads * head_bytes;
  for (int head = 0; head < spec.kv_heads; ++head, key += head_bytes, value += head_bytes) {
    StoreRow(k.data() + head * head_dim, head_dim, layout_->element, key);
    StoreRow(v.data() + head * head_dim, head_dim, layout_->element, value);
  }
}

void SequenceState::ForEachKvSpan(int layer, int kv_head, int64_t begin, int64_t end,
                                  absl::FunctionRef<void(const KvSpan&)> fn) const {
  const Layer& kv = layers_[layer];
  const int64_t kv_heads = layout_->layers[layer].kv_heads;
  const int64_t page_tokens = layout_->page_tokens;
  BATON_CHECK(kv.kind != Kind::kRecurrent);
  BATON_CHECK(kv_head >= 0 && kv_head < kv_heads);
  BATON_CHECK(begin >= 0 && end <= max_tokens_);
  const int64_t keys_offset = kv_head * page_tokens * kv.row_bytes;
  const int64_t values_offset = (kv_heads + kv_head) * page_tokens * kv.row_bytes;
  for (int64_t position = begin; position < end;) {
    const int64_t page = position / page_tokens;
    const Slot& slot = kv.slots[page % kv.slots.size()];
    BATON_CHECK(slot.index == page);
    const int64_t first_row = position % page_tokens;
    const int64_t count = std::min(end - position, page_tokens - first_row);
    const std::byte* rows = slot.page.data() + first_row * kv.row_bytes;
    fn({rows + keys_offset, rows + values_offset, position, count});
    position += count;
  }
}

int64_t SequenceState::FirstNeededPosition(int layer, int64_t at_position) const {
  return layout_->FirstNeededPosition(layout_->layers[layer], at_position);
}

std::byte* SequenceState::RecurrentState(int layer) const {
  BATON_CHECK(layers_[layer].kind == Kind::kRecurrent);
  return layers_[layer].recurrent.data();
}

absl::Span<float> SequenceState::RgLruState(int layer) {
  return {reinterpret_cast<float*>(RecurrentState(layer)), static_cast<size_t>(layout_->layers[layer].width)};
}

absl::Span<const float> SequenceState::RgLruState(int layer) const {
  return {reinterpret_cast<const float*>(RecurrentState(layer)), static_cast<size_t>(layout_->layers[layer].width)};
}

absl::Span<std::byte> SequenceState::ConvState(int layer) {
  const LayerStateSpec& spec = layout_->layers[layer];
  const int64_t bytes = int64_t{spec.conv_history} * spec.width * ElementBytes(layout_->element);
  return {RecurrentState(layer) + spec.width * sizeof(float), static_cast<size_t>(bytes)};
}

absl::Span<const std::byte> SequenceState::ConvState(int layer) const {
  const LayerStateSpec& spec = layout_->layers[layer];
  const int64_t bytes = int64_t{spec.conv_history} * spec.width * ElementBytes(layout_->element);
  return {RecurrentState(layer) + spec.width * sizeof(float), static_cast<size_t>(bytes)};
}

void SequenceState::Advance(int64_t tokens) {
  BATON_CHECK(tokens >= 0 && tokens <= max_tokens_ - position_);
  const int64_t old_position = std::exchange(position_, position_ + tokens);
  DropOldPages(old_position);
}

void SequenceState::SetPosition(int64_t position) {
  BATON_CHECK(position >= 0 && position <= max_tokens_);
  const int64_t old_position = std::exchange(position_, position);
  DropOldPages(old_position);
  prepared_end_ = position;
}

}  // namespace baton
