#include <algorithm>
#include <limits>

#include "common/base/status_macros.h"
#include "common/state/state_codec.h"
#include "common/state/wire_format.h"

namespace baton {
namespace {

using wire::Put;

// Returns where the frame begins, for EndFrame.
size_t BeginFrame(wire::FrameType type, size_t payload_bytes, std::string* out) {
  BATON_CHECK(payload_bytes <= std::numeric_limits<uint32_t>::max());
  const size_t begin = out->size();
  Put(static_cast<uint32_t>(type), out);
  Put(static_cast<uint32_t>(payload_bytes), out);
  return begin;
}

// Returns the frame's checksum.
uint64_t EndFrame(size_t begin, std::string* out) {
  const absl::string_view frame = absl::string_view(*out).substr(begin);
  BATON_CHECK(frame.size() == wire::kFramePrefixBytes + wire::Get<uint32_t>(frame, 4));
  const uint64_t checksum = wire::Checksum(frame);
  Put(checksum, out);
  return checksum;
}

void PutBytes(const std::byte* data, size_t bytes, std::string* out) {
  out->append(reinterpret_cast<const char*>(data), bytes);
}

}  // namespace

size_t WholeStateFrames(absl::string_view frames, size_t max_bytes) {
  size_t taken = 0;
  while (taken < frames.size()) {
    BATON_CHECK(frames.size() - taken >= wire::kFrameOverheadBytes);
    const size_t frame = wire::kFrameOverheadBytes + wire::Get<uint32_t>(frames, taken + 4);
    BATON_CHECK(frame <= frames.size() - taken);
    if (taken > 0 && frame > max_bytes - std::min(taken, max_bytes)) break;
    taken += frame;
  }
  return taken;
}

StateWriter::StateWriter(const Fingerprint& fingerprint, const StateLayout& layout, int64_t final_position)
    : fingerprint_(fingerprint), layout_(&layout), final_position_(final_position) {
  BATON_CHECK(final_position >= 1);
}

void StateWriter::AppendHeader(std::string* out) {
  BATON_CHECK(!header_written_);
  header_written_ = true;
  const size_t layers = layout_->layers.size();
  const size_t begin = BeginFrame(wire::FrameType::kHeader, wire::kHeaderBytes + layers * wire::kLayerBytes, out);
  out->append(wire::kMagic.data(), wire::kMagic.size());
  Put(wire::kVersion, out);
  Put(uint32_t{0}, out);
  out->append(fingerprint_.ToBytes());
  Put(static_cast<uint64_t>(final_position_), out);
  Put(static_cast<uint32_t>(layers), out);
  Put(static_cast<uint32_t>(layout_->element), out);
  for (const LayerStateSpec& spec : layout_->layers) {
    Put(static_cast<uint32_t>(spec.kind), out);
    Put(static_cast<uint32_t>(spec.kv_heads), out);
    Put(static_cast<uint32_t>(spec.head_dim), out);
    Put(static_cast<uint32_t>(spec.width), out);
    Put(static_cast<uint32_t>(spec.conv_history), out);
    Put(uint32_t{0}, out);
    Put(static_cast<uint64_t>(spec.visible_keys), out);
  }
  chain_ = EndFrame(begin, out);
}

void StateWriter::AppendPieces(const SequenceState& state, std::string* out) {
  BATON_CHECK(AppendPieces(state, std::numeric_limits<size_t>::max(), out));
}

bool StateWriter::AppendPieces(const SequenceState& state, size_t max_bytes, std::string* out) {
  BATON_CHECK(header_written_ && !commit_written_);
  BATON_CHECK(state.layout().layers.size() == layout_->layers.size());
  BATON_CHECK(state.position() >= sweep_end_ && state.position() <= final_position_);
  const size_t begin = out->size();
  while (sent_position_ < state.position()) {
    if (sweep_end_ == sent_position_) {
      sweep_end_ = state.position();
      sweep_layer_ = 0;
      sweep_position_ = sent_position_;
    }
    for (; sweep_layer_ < layout_->layers.size(); ++sweep_layer_, sweep_position_ = sent_position_) {
      while (sweep_position_ < sweep_end_) {
        const size_t appended = out->size() - begin;
        const size_t room = max_bytes - std::min(appended, max_bytes);
        if (!AppendSection(state, /*always=*/appended == 0, room, out)) return false;
      }
    }
    sent_position_ = sweep_end_;
  }
  return true;
}

bool StateWriter::AppendSection(const SequenceState& state, bool always, size_t max_bytes, std::string* out) {
  const int layer = static_cast<int>(sweep_layer_);
  const LayerStateSpec& spec = layout_->layers[sweep_layer_];
  const int64_t element_bytes = ElementBytes(layout_->element);
  if (spec.kind == LayerStateSpec::Kind::kRecurrent) {
    if (sweep_end_ == final_position_) {
      const size_t bytes = wire::kFrameOverheadBytes + wire::kRecurrentBytes + spec.width * sizeof(float) +
                           spec.width * spec.conv_history * element_bytes;
      if (bytes > max_bytes && !always) return false;
      AppendRecurrent(state, layer, out);
    }
    sweep_position_ = sweep_end_;
    return true;
  }

  sweep_position_ = std::max(sweep_position_, layout_->FirstNeededPosition(spec, final_position_));
  if (sweep_position_ >= sweep_end_) return true;
  const int64_t position_bytes = 2 * spec.kv_heads * spec.head_dim * element_bytes;
  constexpr int64_t kRoom = kStateFrameTargetBytes - wire::kFrameOverheadBytes - wire::kKvBytes;
  const int64_t count = std::min(std::max<int64_t>(1, kRoom / position_bytes), sweep_end_ - sweep_position_);
  if (wire::kFrameOverheadBytes + wire::kKvBytes + count * position_bytes > max_bytes && !always) return false;
  AppendKv(state, layer, sweep_position_, count, out);
  sweep_position_ += count;
  return true;
}

void StateWriter::AppendKv(const SequenceState& state, int layer, int64_t first, int64_t count, std::string* out) {
  const LayerStateSpec& spec = layout_->layers[layer];
  const int64_t row_bytes = spec.head_dim * ElementBytes(layout_->element);
  const int64_t last = first + count;
  const size_t frame = BeginFrame(wire::FrameType::kKv, wire::kKvBytes + count * 2 * spec.kv_heads * row_bytes, out);
  Put(static_cast<uint32_t>(layer), out);
  Put(static_cast<uint32_t>(count), out);
  Put(static_cast<uint64_t>(first), out);
  for (int head = 0; head < spec.kv_heads; ++head) {
    state.ForEachKvSpan(layer, head, first, last,
                        [&](const KvSpan& span) { PutBytes(span.keys, span.count * row_bytes, out); });
  }
  for (int head = 0; head < spec.kv_heads; ++head) {
    state.ForEachKvSpan(layer, head, first, last,
                        [&](const KvSpan& span) { PutBytes(span.values, span.count * row_bytes, out); });
  }
  EndSection(frame, out);
}

void StateWriter::AppendRecurrent(const SequenceState& state, int layer, std::string* out) {
  const absl::Span<const float> rg_lru = state.RgLruState(layer);
  const absl::Span<const std::byte> conv = state.ConvState(layer);
  const size_t rg_lru_bytes = rg_lru.size() * sizeof(float);
  const size_t frame = BeginFrame(wire::FrameType::kRecurrent, wire::kRecurrentBytes + rg_lru_bytes + conv.size(), out);
  Put(static_cast<uint32_t>(layer), out);
  Put(uint32_t{0}, out);
  Put(static_cast<uint64_t>(state.position()), out);
  PutBytes(reinterpret_cast<const std::byte*>(rg_lru.data()), rg_lru_bytes, out);
  PutBytes(conv.data(), conv.size(), out);
  EndSection(frame, out);
}

void StateWriter::EndSection(size_t frame_begin, std::string* out) {
  chain_ = wire::ExtendChain(chain_, EndFrame(frame_begin, out));
  ++sections_;
}

void StateWriter::AppendCommit(const FirstTokenRecord& first_token, std::string* out) {
  BATON_CHECK(header_written_ && !commit_written_ && sent_position_ == final_position_);
  commit_written_ = true;
  const bool logprobs = first_token.has_logprobs;
  const size_t top = logprobs ? first_token.top_ids.size() : 0;
  BATON_CHECK(top <= wire::kMaxTopLogprobs);
  BATON_CHECK(!logprobs || first_token.top_logprobs.size() == top);
  const size_t begin = BeginFrame(wire::FrameType::kCommit, wire::kCommitBytes + top * wire::kTopLogprobBytes, out);
  Put(static_cast<uint64_t>(final_position_), out);
  Put(sections_, out);
  Put(chain_, out);
  Put(first_token.id, out);
  Put(static_cast<uint8_t>(logprobs), out);
  Put(static_cast<uint8_t>(logprobs && first_token.is_greedy), out);
  Put(static_cast<uint16_t>(top), out);
  Put(logprobs ? first_token.logprob : 0.0f, out);
  for (size_t i = 0; i < top; ++i) Put(first_token.top_ids[i], out);
  for (size_t i = 0; i < top; ++i) Put(first_token.top_logprobs[i], out);
  EndFrame(begin, out);
}

}  // namespace baton
