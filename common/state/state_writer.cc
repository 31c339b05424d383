#include <algorithm>
#include <cstring>
#include <limits>
#include <utility>

#include "common/base/status_macros.h"
#include "common/compute/kv_quantization.h"
#include "common/state/state_codec.h"
#include "common/state/wire_format.h"

namespace baton {
namespace {

using wire::Put;

std::string BeginFrame(wire::FrameType type, size_t payload_bytes) {
  BATON_CHECK(payload_bytes <= std::numeric_limits<uint32_t>::max());
  std::string frame;
  Put(static_cast<uint32_t>(type), &frame);
  Put(static_cast<uint32_t>(payload_bytes), &frame);
  return frame;
}

// A frame that is complete but for its checksum, which is returned.
uint64_t EndFrame(std::string frame, ByteChain* out) {
  wire::Checksum checksum;
  checksum.Add(frame);
  const uint64_t value = checksum.Finish();
  Put(value, &frame);
  out->Add(std::move(frame));
  return value;
}

// Rows of `row_bytes` elements, one after the other, wherever ranges begin and end.
template <typename Fn>
void ForEachRow(const std::vector<absl::string_view>& ranges, size_t row_bytes, Fn fn) {
  for (absl::string_view range : ranges) {
    BATON_CHECK(range.size() % row_bytes == 0);
    for (; !range.empty(); range.remove_prefix(row_bytes)) fn(range.data());
  }
}

void PutFirstToken(const FirstTokenRecord& token, bool listed, std::string* out) {
  const bool logprobs = token.has_logprobs;
  const size_t top = logprobs ? token.top_ids.size() : 0;
  BATON_CHECK(top <= wire::kMaxTopLogprobs);
  BATON_CHECK(!logprobs || token.top_logprobs.size() == top);
  uint8_t flags = logprobs ? wire::kHasLogprobs : 0;
  if (listed && token.ends) flags |= wire::kEndsSample;
  Put(token.id, out);
  Put(flags, out);
  Put(static_cast<uint8_t>(logprobs && token.is_greedy), out);
  Put(static_cast<uint16_t>(top), out);
  Put(logprobs ? token.logprob : 0.0f, out);
  for (size_t i = 0; i < top; ++i) Put(token.top_ids[i], out);
  for (size_t i = 0; i < top; ++i) Put(token.top_logprobs[i], out);
}

}  // namespace

size_t WholeStateFrames(absl::string_view frames, size_t max_bytes) {
  size_t taken = 0;
  while (taken < frames.size()) {
    BATON_CHECK(frames.size() - taken >= wire::kFrameOverheadBytes);
    uint32_t payload;
    std::memcpy(&payload, frames.data() + taken + 4, sizeof(payload));
    const size_t frame = wire::kFrameOverheadBytes + payload;
    BATON_CHECK(frame <= frames.size() - taken);
    if (taken > 0 && frame > max_bytes - std::min(taken, max_bytes)) break;
    taken += frame;
  }
  return taken;
}

StateFrameWriter::StateFrameWriter(const Fingerprint& fingerprint, const StateLayout& layout, int64_t final_position,
                                   KvEncoding encoding, size_t samples)
    : fingerprint_(fingerprint),
      layout_(&layout),
      final_position_(final_position),
      encoding_(encoding),
      samples_(samples) {
  BATON_CHECK(final_position >= 1 && samples >= 1 && samples <= kMaxSamples);
}

void StateFrameWriter::WriteHeader(ByteChain* out) {
  BATON_CHECK(!header_written_);
  header_written_ = true;
  const size_t layers = layout_->layers.size();
  const uint32_t features =
      (encoding_ == KvEncoding::kInt8 ? wire::kInt8Kv : 0) | (samples_ > 1 ? wire::kSampleList : 0);
  std::string frame = BeginFrame(wire::FrameType::kHeader, wire::kHeaderBytes + layers * wire::kLayerBytes);
  frame.append(wire::kMagic.data(), wire::kMagic.size());
  Put(features == 0 ? wire::kPlainVersion : wire::kVersion, &frame);
  Put(features, &frame);
  frame.append(fingerprint_.ToBytes());
  Put(static_cast<uint64_t>(final_position_), &frame);
  Put(static_cast<uint32_t>(layers), &frame);
  Put(static_cast<uint32_t>(layout_->element), &frame);
  for (const LayerStateSpec& spec : layout_->layers) {
    Put(static_cast<uint32_t>(spec.kind), &frame);
    Put(static_cast<uint32_t>(spec.kv_heads), &frame);
    Put(static_cast<uint32_t>(spec.head_dim), &frame);
    Put(static_cast<uint32_t>(spec.width), &frame);
    Put(static_cast<uint32_t>(spec.conv_history), &frame);
    Put(uint32_t{0}, &frame);
    Put(static_cast<uint64_t>(spec.visible_keys), &frame);
  }
  chain_ = EndFrame(std::move(frame), out);
}

size_t StateFrameWriter::PayloadBytes(const StatePiece& piece) const {
  const LayerStateSpec& spec = layout_->layers[piece.layer];
  if (piece.count > 0 && encoding_ == KvEncoding::kInt8) {
    return wire::kKvBytes + 2 * piece.count * spec.kv_heads * (spec.head_dim + wire::kInt8ScaleBytes);
  }
  size_t bytes = piece.count > 0 ? wire::kKvBytes : wire::kRecurrentBytes;
  for (absl::string_view range : piece.bytes) bytes += range.size();
  return bytes;
}

size_t StateFrameWriter::FrameBytes(const StatePiece& piece) const {
  return wire::kFrameOverheadBytes + PayloadBytes(piece);
}

void StateFrameWriter::WritePiece(const StatePiece& piece, const std::shared_ptr<const void>& owner, ByteChain* out) {
  BATON_CHECK(header_written_ && !commit_written_);
  const bool recurrent = piece.count == 0;
  const size_t before = out->size();
  std::string head = BeginFrame(recurrent ? wire::FrameType::kRecurrent : wire::FrameType::kKv, PayloadBytes(piece));
  Put(static_cast<uint32_t>(piece.layer), &head);
  Put(static_cast<uint32_t>(piece.count), &head);
  Put(static_cast<uint64_t>(piece.first), &head);

  wire::Checksum checksum;
  checksum.Add(head);
  out->Add(std::move(head));
  if (!recurrent && encoding_ == KvEncoding::kInt8) {
    std::string codes = EncodeInt8(piece);
    checksum.Add(codes);
    out->Add(std::move(codes));
  } else {
    for (absl::string_view range : piece.bytes) {
      checksum.Add(range);
      out->AddReference(range, owner);
    }
  }
  const uint64_t value = checksum.Finish();
  std::string tail;
  Put(value, &tail);
  out->Add(std::move(tail));
  BATON_CHECK(out->size() - before == FrameBytes(piece));
  chain_ = wire::ExtendChain(chain_, value);
  ++sections_;
}

std::string StateFrameWriter::EncodeInt8(const StatePiece& piece) const {
  const LayerStateSpec& spec = layout_->layers[piece.layer];
  const int64_t rows = spec.kv_heads * piece.count;
  // K codes, K scales, V codes, V scales.
  const size_t half = rows * (spec.head_dim + wire::kInt8ScaleBytes);
  std::string out(2 * half, '\0');
  int64_t row = 0;
  ForEachRow(piece.bytes, spec.head_dim * ElementBytes(layout_->element), [&](const char* elements) {
    char* begin = out.data() + (row / rows) * half;
    const int64_t index = row % rows;
    auto* codes = reinterpret_cast<int8_t*>(begin + index * spec.head_dim);
    const uint16_t scale = layout_->element == ElementType::kF32
                               ? QuantizeKvRow(reinterpret_cast<const float*>(elements), spec.head_dim, codes)
                               : QuantizeKvRow(reinterpret_cast<const uint16_t*>(elements), spec.head_dim, codes);
    std::memcpy(begin + rows * spec.head_dim + index * wire::kInt8ScaleBytes, &scale, sizeof(scale));
    ++row;
  });
  BATON_CHECK(row == 2 * rows);
  return out;
}

void StateFrameWriter::WriteCommit(absl::Span<const FirstTokenRecord> first_tokens, ByteChain* out) {
  BATON_CHECK(header_written_ && !commit_written_ && first_tokens.size() == samples_);
  commit_written_ = true;
  std::string tokens;
  if (samples_ > 1) {
    Put(static_cast<uint32_t>(samples_), &tokens);
    Put(uint32_t{0}, &tokens);
  }
  for (const FirstTokenRecord& token : first_tokens) PutFirstToken(token, /*listed=*/samples_ > 1, &tokens);
  std::string frame = BeginFrame(wire::FrameType::kCommit, wire::kCommitBytes + tokens.size());
  Put(static_cast<uint64_t>(final_position_), &frame);
  Put(sections_, &frame);
  Put(chain_, &frame);
  frame += tokens;
  EndFrame(std::move(frame), out);
}

StateWriter::StateWriter(const Fingerprint& fingerprint, const StateLayout& layout, int64_t final_position,
                         KvEncoding encoding, size_t samples)
    : cutter_(layout, final_position), frames_(fingerprint, layout, final_position, encoding, samples) {}

void StateWriter::AppendHeader(std::string* out) {
  ByteChain bytes;
  frames_.WriteHeader(&bytes);
  bytes.AppendTo(out);
  header_written_ = true;
}

void StateWriter::AppendPieces(const SequenceState& state, std::string* out) {
  BATON_CHECK(header_written_);
  std::vector<StatePiece> pieces;
  cutter_.AllLayersDone(state, &pieces);
  // The state is the caller's and outlives this call, and with it every reference.
  const std::shared_ptr<const void> owner(&state, [](const void*) {});
  for (const StatePiece& piece : pieces) {
    ByteChain bytes;
    frames_.WritePiece(piece, owner, &bytes);
    bytes.AppendTo(out);
  }
}

void StateWriter::AppendCommit(absl::Span<const FirstTokenRecord> first_tokens, std::string* out) {
  BATON_CHECK(header_written_ && cutter_.complete());
  ByteChain bytes;
  frames_.WriteCommit(first_tokens, &bytes);
  bytes.AppendTo(out);
}

}  // namespace baton
