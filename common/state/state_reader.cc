#include <algorithm>
#include <cstring>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/state/state_codec.h"
#include "common/state/wire_format.h"

namespace baton {
namespace {

using wire::Get;

template <typename... Parts>
absl::Status Malformed(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("sequence state: ", parts...));
}

// The fields by which any version is told from any other lie where they lie in this one.
absl::Status CheckVersion(wire::FrameType type, absl::string_view payload) {
  constexpr size_t kVersionOffset = 8;
  if (type != wire::FrameType::kHeader || payload.size() < kVersionOffset + sizeof(wire::kVersion) ||
      payload.substr(0, wire::kMagic.size()) != wire::kMagic) {
    return Malformed("the stream does not begin with a header frame");
  }
  const uint32_t version = Get<uint32_t>(payload, kVersionOffset);
  if (version == wire::kVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("sequence state: wire format version ", version, ", but only ",
                                                    wire::kVersion,
                                                    " is understood here: run the same release of "
                                                    "Baton on prefill and decode workers"));
}

}  // namespace

StateReader::StateReader(const Fingerprint& expected, SequenceState* state) : expected_(expected), state_(state) {
  BATON_CHECK(state->position() == 0);
  progress_.resize(state->layout().layers.size(), 0);
}

absl::Status StateReader::Feed(absl::string_view frames) {
  while (status_.ok() && !frames.empty()) {
    const size_t before = frames.size();
    status_ = FeedNext(&frames);
    if (status_.ok()) bytes_received_ += static_cast<int64_t>(before - frames.size());
  }
  return status_;
}

absl::Status StateReader::FeedNext(absl::string_view* frames) {
  if (committed()) return Malformed("bytes after the commit");
  if (frames->size() < wire::kFrameOverheadBytes) return Malformed("a frame is cut short");
  const uint32_t type_and_zeros = Get<uint32_t>(*frames, 0);
  const uint32_t payload_bytes = Get<uint32_t>(*frames, 4);
  if (payload_bytes > frames->size() - wire::kFrameOverheadBytes) return Malformed("a frame is cut short");
  const absl::string_view payload = frames->substr(wire::kFramePrefixBytes, payload_bytes);
  const auto type = static_cast<wire::FrameType>(type_and_zeros & 0xFF);

  // A later version may check its frames differently, so the version comes before the checksum.
  if (!header_seen_) BATON_RETURN_IF_ERROR(CheckVersion(type, payload));
  const uint64_t checksum = wire::Checksum(frames->substr(0, wire::kFramePrefixBytes + payload_bytes));
  if (checksum != Get<uint64_t>(*frames, wire::kFramePrefixBytes + payload_bytes)) {
    return absl::DataLossError(
        absl::StrCat("sequence state: checksum mismatch in the frame at byte ", bytes_received_));
  }
  if (type_and_zeros > 0xFF) return Malformed("reserved bytes of a frame are not zero");
  frames->remove_prefix(wire::kFrameOverheadBytes + payload_bytes);

  if (!header_seen_) return FeedHeader(payload, checksum);
  switch (type) {
    case wire::FrameType::kHeader:
      return Malformed("a second header");
    case wire::FrameType::kKv:
      BATON_RETURN_IF_ERROR(FeedKv(payload));
      break;
    case wire::FrameType::kRecurrent:
      BATON_RETURN_IF_ERROR(FeedRecurrent(payload));
      break;
    case wire::FrameType::kCommit:
      // Nothing may follow, and what follows in the same chunk must not be found only after the commit counted.
      if (!frames->empty()) return Malformed("bytes after the commit");
      return FeedCommit(payload);
    default:
      return Malformed("unknown frame type ", type_and_zeros);
  }
  chain_ = wire::ExtendChain(chain_, checksum);
  ++sections_;
  return absl::OkStatus();
}

absl::Status StateReader::FeedHeader(absl::string_view payload, uint64_t checksum) {
  const StateLayout& layout = state_->layout();
  if (payload.size() < wire::kHeaderBytes) return Malformed("the header is too short");
  Fingerprint fingerprint;
  BATON_CHECK(Fingerprint::FromBytes(payload.substr(16, fingerprint.bytes.size()), &fingerprint));
  if (!(fingerprint == expected_)) {
    return absl::FailedPreconditionError(absl::StrCat("sequence state: made by a model with fingerprint ",
                                                      fingerprint.ToHex(), ", but this worker's is ",
                                                      expected_.ToHex()));
  }
  const uint32_t layers = Get<uint32_t>(payload, 56);
  if (layers != layout.layers.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("sequence state: ", layers, " layers sent, ", layout.layers.size(), " expected"));
  }
  if (payload.size() != wire::kHeaderBytes + layers * wire::kLayerBytes) return Malformed("the header's size is wrong");
  if (Get<uint32_t>(payload, 60) != static_cast<uint32_t>(layout.element)) {
    return absl::FailedPreconditionError("sequence state: element types differ");
  }
  for (uint32_t i = 0; i < layers; ++i) BATON_RETURN_IF_ERROR(CheckLayer(payload, i));

  if (Get<uint32_t>(payload, 12) != 0) return Malformed("reserved bytes of the header are not zero");
  const uint64_t position = Get<uint64_t>(payload, 48);
  if (position < 1) return Malformed("a state of no tokens");
  // The sequence goes on, so there is room for at least one more.
  if (position >= static_cast<uint64_t>(state_->max_tokens())) {
    return Malformed(position, " tokens do not leave room in a reservation of ", state_->max_tokens());
  }
  final_position_ = static_cast<int64_t>(position);
  for (size_t i = 0; i < progress_.size(); ++i) {
    if (layout.layers[i].kind == LayerStateSpec::Kind::kRecurrent) continue;
    progress_[i] = layout.FirstNeededPosition(layout.layers[i], final_position_);
  }
  chain_ = checksum;
  header_seen_ = true;
  return absl::OkStatus();
}

absl::Status StateReader::CheckLayer(absl::string_view header, uint32_t index) const {
  const LayerStateSpec& spec = state_->layout().layers[index];
  const size_t at = wire::kHeaderBytes + index * wire::kLayerBytes;
  const bool equal = Get<uint32_t>(header, at) == static_cast<uint32_t>(spec.kind) &&
                     Get<uint32_t>(header, at + 4) == static_cast<uint32_t>(spec.kv_heads) &&
                     Get<uint32_t>(header, at + 8) == static_cast<uint32_t>(spec.head_dim) &&
                     Get<uint32_t>(header, at + 12) == static_cast<uint32_t>(spec.width) &&
                     Get<uint32_t>(header, at + 16) == static_cast<uint32_t>(spec.conv_history) &&
                     Get<uint32_t>(header, at + 20) == 0 &&
                     Get<uint64_t>(header, at + 24) == static_cast<uint64_t>(spec.visible_keys);
  if (equal) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("sequence state: layer ", index, " has another shape here"));
}

absl::Status StateReader::CheckSection(absl::string_view payload, bool recurrent) const {
  // Both kinds of section begin with 16 bytes: layer u32, count or zero u32, position u64.
  static_assert(wire::kKvBytes == 16 && wire::kRecurrentBytes == 16);
  if (payload.size() < 16) return Malformed("a section is too short");
  const uint32_t layer = Get<uint32_t>(payload, 0);
  if (layer >= progress_.size()) return Malformed("layer ", layer, " of ", progress_.size());
  if ((state_->layout().layers[layer].kind == LayerStateSpec::Kind::kRecurrent) != recurrent) {
    return Malformed("layer ", layer, " has no ", recurrent ? "recurrent state" : "keys and values");
  }
  return absl::OkStatus();
}

absl::Status StateReader::FeedKv(absl::string_view payload) {
  BATON_RETURN_IF_ERROR(CheckSection(payload, /*recurrent=*/false));
  const uint32_t layer = Get<uint32_t>(payload, 0);
  const uint32_t count = Get<uint32_t>(payload, 4);
  const uint64_t first = Get<uint64_t>(payload, 8);
  const int64_t expected = progress_[layer];
  if (first != static_cast<uint64_t>(expected)) {
    return Malformed("layer ", layer, " goes on at position ", first, ", not ", expected);
  }
  if (count < 1 || count > final_position_ - expected) {
    return Malformed("layer ", layer, ": ", count, " positions from ", expected, " of ", final_position_);
  }
  // `count` positions fit the reservation, so their bytes fit int64.
  const LayerStateSpec& spec = state_->layout().layers[layer];
  const int64_t row_bytes = spec.head_dim * ElementBytes(state_->layout().element);
  const int64_t rows_bytes = 2 * spec.kv_heads * row_bytes * count;
  if (payload.size() - wire::kKvBytes != static_cast<uint64_t>(rows_bytes)) {
    return Malformed("layer ", layer, ": ", payload.size() - wire::kKvBytes, " bytes for ", count, " positions");
  }

  const char* rows = payload.data() + wire::kKvBytes;
  for (const bool value : {false, true}) {
    for (int head = 0; head < spec.kv_heads; ++head) {
      for (int64_t position = expected; position < expected + count; ++position, rows += row_bytes) {
        std::byte* row = value ? state_->MutableValueRow(layer, head, position)  //
                               : state_->MutableKeyRow(layer, head, position);
        std::memcpy(row, rows, row_bytes);
      }
    }
  }
  progress_[layer] += count;
  return absl::OkStatus();
}

absl::Status StateReader::FeedRecurrent(absl::string_view payload) {
  BATON_RETURN_IF_ERROR(CheckSection(payload, /*recurrent=*/true));
  const uint32_t layer = Get<uint32_t>(payload, 0);
  if (Get<uint32_t>(payload, 4) != 0) return Malformed("reserved bytes of a recurrent section are not zero");
  const uint64_t position = Get<uint64_t>(payload, 8);
  if (position != static_cast<uint64_t>(final_position_)) {
    return Malformed("layer ", layer, ": recurrent state at position ", position, ", not ", final_position_);
  }
  if (progress_[layer] != 0) return Malformed("layer ", layer, ": recurrent state was sent twice");
  const absl::Span<float> rg_lru = state_->RgLruState(layer);
  const absl::Span<std::byte> conv = state_->ConvState(layer);
  const size_t rg_lru_bytes = rg_lru.size() * sizeof(float);
  if (payload.size() != wire::kRecurrentBytes + rg_lru_bytes + conv.size()) {
    return Malformed("layer ", layer, ": ", payload.size() - wire::kRecurrentBytes, " bytes of recurrent state");
  }
  std::memcpy(rg_lru.data(), payload.data() + wire::kRecurrentBytes, rg_lru_bytes);
  std::memcpy(conv.data(), payload.data() + wire::kRecurrentBytes + rg_lru_bytes, conv.size());
  progress_[layer] = 1;
  return absl::OkStatus();
}

absl::Status StateReader::FeedCommit(absl::string_view payload) {
  if (payload.size() < wire::kCommitBytes) return Malformed("the commit is too short");
  const uint8_t has_logprobs = Get<uint8_t>(payload, 28);
  const uint8_t is_greedy = Get<uint8_t>(payload, 29);
  const uint16_t top = Get<uint16_t>(payload, 30);
  if (top > wire::kMaxTopLogprobs) return Malformed(top, " top log probabilities");
  if (payload.size() != wire::kCommitBytes + top * wire::kTopLogprobBytes) {
    return Malformed("the commit's size is wrong");
  }
  if (Get<uint64_t>(payload, 0) != static_cast<uint64_t>(final_position_)) {
    return Malformed("commit at position ", Get<uint64_t>(payload, 0), ", not ", final_position_);
  }
  for (size_t i = 0; i < progress_.size(); ++i) {
    const bool recurrent = state_->layout().layers[i].kind == LayerStateSpec::Kind::kRecurrent;
    const int64_t complete = recurrent ? 1 : final_position_;
    if (progress_[i] != complete) return Malformed("commit, but layer ", i, " is incomplete");
  }
  if (Get<uint64_t>(payload, 8) != sections_) {
    return Malformed("commit of ", Get<uint64_t>(payload, 8), " sections, but ", sections_, " came");
  }
  if (Get<uint64_t>(payload, 16) != chain_) {
    return absl::DataLossError("sequence state: the commit's chain does not match the sections received");
  }

  CommitRecord commit;
  commit.position = final_position_;
  FirstTokenRecord& token = commit.first_token;
  token.id = Get<int32_t>(payload, 24);
  token.has_logprobs = has_logprobs != 0;
  token.is_greedy = is_greedy != 0;
  token.logprob = Get<float>(payload, 32);
  if (token.id < 0) return Malformed("first token ", token.id);
  if (has_logprobs > 1 || is_greedy > 1) return Malformed("flags of the first token are neither 0 nor 1");
  if (!token.has_logprobs && (token.is_greedy || top != 0 || Get<uint32_t>(payload, 32) != 0)) {
    return Malformed("log probabilities of a first token that has none");
  }
  for (size_t i = 0; i < top; ++i) {
    token.top_ids.push_back(Get<int32_t>(payload, wire::kCommitBytes + 4 * i));
    token.top_logprobs.push_back(Get<float>(payload, wire::kCommitBytes + 4 * (top + i)));
    if (token.top_ids.back() < 0) return Malformed("top token ", token.top_ids.back());
  }
  state_->SetPosition(final_position_);
  commit_ = std::move(commit);
  return absl::OkStatus();
}

}  // namespace baton
