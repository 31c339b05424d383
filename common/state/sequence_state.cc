#include "common/state/sequence_state.h"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/compute/rowwise.h"

namespace baton {
namespace {

void StoreRow(const float* from, int64_t count, ElementType element, std::byte* to) {
  if (element == ElementType::kF32) {
    std::memcpy(to, from, count * sizeof(float));
    return;
  }
  StoreAsBf16(from, count, reinterpret_cast<uint16_t*>(to));
}

absl::Status OutOfMemory(int64_t bytes) {
  return absl::ResourceExhaustedError(absl::StrCat("the system refused memory for a sequence state of ", bytes,
                                                   " bytes; lower --memory to what the machine has"));
}

}  // namespace

absl::StatusOr<SequenceState> SequenceState::Create(std::shared_ptr<const StateLayout> layout, MemoryBudget& budget,
                                                    int64_t max_tokens) {
  if (max_tokens < 1) {
    return absl::InvalidArgumentError(absl::StrCat("a sequence has at least one token, not ", max_tokens));
  }
  const int64_t bytes = layout->BytesFor(max_tokens);
  SequenceState state;
  BATON_ASSIGN_OR_RETURN(state.reservation_, budget.Reserve(bytes));
  state.max_tokens_ = max_tokens;
  state.layers_.resize(layout->layers.size());
  for (size_t i = 0; i < layout->layers.size(); ++i) {
    const LayerStateSpec& spec = layout->layers[i];
    Layer& layer = state.layers_[i];
    layer.kind = spec.kind;
    if (spec.kind == LayerStateSpec::Kind::kGlobalKv) {
      layer.block_slots = layout->page_tokens;
      layer.block_bytes = layout->PageBytes(spec);
      try {
        layer.blocks.resize((max_tokens - 1) / layout->page_tokens + 1);
      } catch (const std::exception&) {  // bad_alloc or length_error: a budget far beyond the machine
        return OutOfMemory(bytes);
      }
    } else {
      if (spec.kind == LayerStateSpec::Kind::kWindowKv) layer.block_slots = layout->RingSlots(spec, max_tokens);
      layer.block_bytes = layout->LayerBytes(spec, max_tokens);
      layer.blocks.resize(1);
      std::byte* data = layer.blocks[0].GetOrAllocate(layer.block_bytes);
      if (data == nullptr) return OutOfMemory(bytes);
      if (spec.kind == LayerStateSpec::Kind::kRecurrent) std::memset(data, 0, layer.block_bytes);
    }
    layer.row_bytes = spec.head_dim * ElementBytes(layout->element);
  }
  state.layout_ = std::move(layout);
  return state;
}

absl::StatusOr<SequenceState> SequenceState::DeepCopy(MemoryBudget& budget) const {
  BATON_ASSIGN_OR_RETURN(SequenceState copy, Create(layout_, budget, max_tokens_));
  for (size_t i = 0; i < layers_.size(); ++i) {
    const Layer& from = layers_[i];
    Layer& to = copy.layers_[i];
    if (from.kind == LayerStateSpec::Kind::kWindowKv) {
      // Only slots that were written: the rest of a young ring holds nothing.
      const int64_t live_bytes = std::min(position_, from.block_slots) * from.row_bytes;
      const int64_t head_bytes = from.block_slots * from.row_bytes;
      for (int64_t head = 0; head < 2 * layout_->layers[i].kv_heads; ++head) {
        std::memcpy(to.blocks[0].data() + head * head_bytes, from.blocks[0].data() + head * head_bytes, live_bytes);
      }
      continue;
    }
    for (size_t block = 0; block < from.blocks.size(); ++block) {
      if (from.blocks[block].data() == nullptr) continue;
      std::byte* data = to.blocks[block].GetOrAllocate(to.block_bytes);
      BATON_CHECK(data != nullptr);
      std::memcpy(data, from.blocks[block].data(), from.block_bytes);
    }
  }
  copy.position_ = position_;
  return copy;
}

SequenceState::Slot SequenceState::Locate(int layer, int64_t position) const {
  const Layer& kv = layers_[layer];
  if (kv.kind == LayerStateSpec::Kind::kWindowKv) return {0, position % kv.block_slots};
  return {position / kv.block_slots, position % kv.block_slots};
}

std::byte* SequenceState::MutableKvRow(int layer, int kv_head, int64_t position, bool value) {
  BATON_CHECK(position >= 0 && position < max_tokens_);
  Layer& kv = layers_[layer];
  BATON_CHECK(kv.kind != LayerStateSpec::Kind::kRecurrent);
  const int kv_heads = layout_->layers[layer].kv_heads;
  BATON_CHECK(kv_head >= 0 && kv_head < kv_heads);
  const Slot slot = Locate(layer, position);
  // Bytes are reserved since Create, so the system's refusal is not an answer any caller could give.
  std::byte* block = kv.blocks[slot.block].GetOrAllocate(kv.block_bytes);
  BATON_CHECK(block != nullptr);
  const int64_t head = kv_head + (value ? kv_heads : 0);
  return block + (head * kv.block_slots + slot.index) * kv.row_bytes;
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
  for (int head = 0; head < spec.kv_heads; ++head) {
    StoreRow(k.data() + head * head_dim, head_dim, layout_->element, MutableKeyRow(layer, head, position));
    StoreRow(v.data() + head * head_dim, head_dim, layout_->element, MutableValueRow(layer, head, position));
  }
}

void SequenceState::ForEachKvSpan(int layer, int kv_head, int64_t begin, int64_t end,
                                  absl::FunctionRef<void(const KvSpan&)> fn) const {
  const Layer& kv = layers_[layer];
  const int kv_heads = layout_->layers[layer].kv_heads;
  BATON_CHECK(kv.kind != LayerStateSpec::Kind::kRecurrent);
  BATON_CHECK(kv_head >= 0 && kv_head < kv_heads);
  BATON_CHECK(begin >= 0 && end <= max_tokens_);
  BATON_CHECK(kv.kind == LayerStateSpec::Kind::kGlobalKv || end - begin <= kv.block_slots);
  const int64_t keys_offset = kv_head * kv.block_slots * kv.row_bytes;
  const int64_t values_offset = (kv_heads + kv_head) * kv.block_slots * kv.row_bytes;
  for (int64_t position = begin; position < end;) {
    const Slot slot = Locate(layer, position);
    const std::byte* block = kv.blocks[slot.block].data();
    BATON_CHECK(block != nullptr);
    const int64_t count = std::min(end - position, kv.block_slots - slot.index);
    const int64_t row_offset = slot.index * kv.row_bytes;
    fn({block + keys_offset + row_offset, block + values_offset + row_offset, position, count});
    position += count;
  }
}

int64_t SequenceState::FirstNeededPosition(int layer, int64_t at_position) const {
  return layout_->FirstNeededPosition(layout_->layers[layer], at_position);
}

std::byte* SequenceState::RecurrentBlock(int layer) const {
  BATON_CHECK(layers_[layer].kind == LayerStateSpec::Kind::kRecurrent);
  return layers_[layer].blocks[0].data();
}

absl::Span<float> SequenceState::RgLruState(int layer) {
  return {reinterpret_cast<float*>(RecurrentBlock(layer)), static_cast<size_t>(layout_->layers[layer].width)};
}

absl::Span<const float> SequenceState::RgLruState(int layer) const {
  return {reinterpret_cast<const float*>(RecurrentBlock(layer)), static_cast<size_t>(layout_->layers[layer].width)};
}

absl::Span<std::byte> SequenceState::ConvState(int layer) {
  const LayerStateSpec& spec = layout_->layers[layer];
  const int64_t bytes = int64_t{spec.conv_history} * spec.width * ElementBytes(layout_->element);
  return {RecurrentBlock(layer) + spec.width * sizeof(float), static_cast<size_t>(bytes)};
}

absl::Span<const std::byte> SequenceState::ConvState(int layer) const {
  const LayerStateSpec& spec = layout_->layers[layer];
  const int64_t bytes = int64_t{spec.conv_history} * spec.width * ElementBytes(layout_->element);
  return {RecurrentBlock(layer) + spec.width * sizeof(float), static_cast<size_t>(bytes)};
}

void SequenceState::Advance(int64_t tokens) {
  BATON_CHECK(tokens >= 0 && tokens <= max_tokens_ - position_);
  position_ += tokens;
}

void SequenceState::SetPosition(int64_t position) {
  BATON_CHECK(position >= 0 && position <= max_tokens_);
  position_ = position;
}

}  // namespace baton
