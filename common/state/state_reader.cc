#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/compute/kv_quantization.h"
#include "common/compute/rowwise.h"
#include "common/state/state_codec.h"
#include "common/state/wire_format.h"

namespace baton {
namespace {

template <typename... Parts>
absl::Status Malformed(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat("sequence state: ", parts...));
}

// The fields by which any version is told from any other lie where they lie in this one.
absl::Status CheckVersion(wire::FrameType type, SliceCursor payload) {
  char magic[8];
  if (type != wire::FrameType::kHeader || payload.remaining() < sizeof(magic) + sizeof(uint32_t)) {
    return Malformed("the stream does not begin with a header frame");
  }
  payload.CopyTo(magic, sizeof(magic));
  if (absl::string_view(magic, sizeof(magic)) != wire::kMagic) {
    return Malformed("the stream does not begin with a header frame");
  }
  const auto version = payload.Read<uint32_t>();
  if (version == wire::kPlainVersion || version == wire::kVersion) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("sequence state: wire format version ", version, ", but only ",
                                                    wire::kPlainVersion, " and ", wire::kVersion,
                                                    " are understood here: run the same release of "
                                                    "Baton on prefill and decode workers"));
}

// Consumes the first token of one sample.
absl::Status TakeFirstToken(SliceCursor* payload, bool listed, FirstTokenRecord* token) {
  if (payload->remaining() < wire::kFirstTokenBytes) return Malformed("the commit is too short");
  token->id = payload->Read<int32_t>();
  const auto flags = payload->Read<uint8_t>();
  const auto is_greedy = payload->Read<uint8_t>();
  const auto top = payload->Read<uint16_t>();
  const auto logprob_bits = payload->Read<uint32_t>();
  if (top > wire::kMaxTopLogprobs) return Malformed(top, " top log probabilities");
  if (payload->remaining() < top * wire::kTopLogprobBytes) return Malformed("the commit's size is wrong");
  token->has_logprobs = (flags & wire::kHasLogprobs) != 0;
  token->ends = (flags & wire::kEndsSample) != 0;
  token->is_greedy = is_greedy != 0;
  token->logprob = std::bit_cast<float>(logprob_bits);
  const uint8_t known = wire::kHasLogprobs | (listed ? wire::kEndsSample : 0);
  if (token->id < 0) return Malformed("first token ", token->id);
  if ((flags & ~known) != 0 || is_greedy > 1) return Malformed("unknown flags of a first token");
  if (!token->has_logprobs && (token->is_greedy || top != 0 || logprob_bits != 0)) {
    return Malformed("log probabilities of a first token that has none");
  }
  for (size_t i = 0; i < top; ++i) {
    token->top_ids.push_back(payload->Read<int32_t>());
    if (token->top_ids.back() < 0) return Malformed("top token ", token->top_ids.back());
  }
  for (size_t i = 0; i < top; ++i) token->top_logprobs.push_back(payload->Read<float>());
  return absl::OkStatus();
}

}  // namespace

StateReader::StateReader(const Fingerprint& expected, SequenceState* state) : expected_(expected), state_(state) {
  BATON_CHECK(state->position() == 0);
  progress_.resize(state->layout().layers.size(), 0);
}

absl::Status StateReader::Feed(absl::Span<const absl::string_view> slices) {
  SliceCursor frames(slices);
  while (status_.ok() && frames.remaining() > 0) {
    const size_t before = frames.remaining();
    status_ = FeedNext(&frames);
    if (status_.ok()) bytes_received_ += static_cast<int64_t>(before - frames.remaining());
  }
  return status_;
}

absl::Status StateReader::FeedNext(SliceCursor* frames) {
  if (committed()) return Malformed("bytes after the commit");
  if (frames->remaining() < wire::kFrameOverheadBytes) return Malformed("a frame is cut short");
  struct {
    uint32_t type_and_zeros;
    uint32_t payload_bytes;
  } prefix;
  static_assert(sizeof(prefix) == wire::kFramePrefixBytes);
  frames->CopyTo(&prefix, sizeof(prefix));
  if (prefix.payload_bytes > frames->remaining() - wire::kFrameChecksumBytes) return Malformed("a frame is cut short");
  const SliceCursor payload = frames->First(prefix.payload_bytes);
  const auto type = static_cast<wire::FrameType>(prefix.type_and_zeros & 0xFF);

  // A later version may check its frames differently, so the version comes before the checksum.
  if (!header_seen_) BATON_RETURN_IF_ERROR(CheckVersion(type, payload));
  wire::Checksum sum;
  sum.Add({reinterpret_cast<const char*>(&prefix), sizeof(prefix)});
  frames->Take(prefix.payload_bytes, [&](absl::string_view piece) { sum.Add(piece); });
  const uint64_t checksum = sum.Finish();
  if (checksum != frames->Read<uint64_t>()) {
    return absl::DataLossError(
        absl::StrCat("sequence state: checksum mismatch in the frame at byte ", bytes_received_));
  }
  if (prefix.type_and_zeros > 0xFF) return Malformed("reserved bytes of a frame are not zero");

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
      if (frames->remaining() > 0) return Malformed("bytes after the commit");
      return FeedCommit(payload);
    default:
      return Malformed("unknown frame type ", prefix.type_and_zeros);
  }
  chain_ = wire::ExtendChain(chain_, checksum);
  ++sections_;
  return absl::OkStatus();
}

absl::Status StateReader::FeedHeader(SliceCursor payload, uint64_t checksum) {
  const StateLayout& layout = state_->layout();
  if (payload.remaining() < wire::kHeaderBytes) return Malformed("the header is too short");
  const size_t bytes = payload.remaining();
  payload.Skip(wire::kMagic.size());
  const auto version = payload.Read<uint32_t>();
  const auto features = payload.Read<uint32_t>();
  Fingerprint fingerprint;
  payload.CopyTo(fingerprint.bytes.data(), fingerprint.bytes.size());
  const auto position = payload.Read<uint64_t>();
  const auto layers = payload.Read<uint32_t>();
  const auto element = payload.Read<uint32_t>();
  if (!(fingerprint == expected_)) {
    return absl::FailedPreconditionError(absl::StrCat("sequence state: made by a model with fingerprint ",
                                                      fingerprint.ToHex(), ", but this worker's is ",
                                                      expected_.ToHex()));
  }
  if (layers != layout.layers.size()) {
    return absl::FailedPreconditionError(
        absl::StrCat("sequence state: ", layers, " layers sent, ", layout.layers.size(), " expected"));
  }
  if (bytes != wire::kHeaderBytes + layers * wire::kLayerBytes) return Malformed("the header's size is wrong");
  if (element != static_cast<uint32_t>(layout.element)) {
    return absl::FailedPreconditionError("sequence state: element types differ");
  }
  for (uint32_t i = 0; i < layers; ++i) BATON_RETURN_IF_ERROR(CheckLayer(&payload, i));

  if (version == wire::kPlainVersion && features != 0) return Malformed("reserved bytes of the header are not zero");
  if ((features & ~wire::kFeatures) != 0) {
    return absl::FailedPreconditionError(absl::StrCat("sequence state: features ", features, ", of which only ",
                                                      wire::kInt8Kv, " (int8 K and V) and ", wire::kSampleList,
                                                      " (several samples) are understood here"));
  }
  sample_list_ = (features & wire::kSampleList) != 0;
  encoding_ = (features & wire::kInt8Kv) != 0 ? KvEncoding::kInt8 : KvEncoding::kExact;
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

absl::Status StateReader::CheckLayer(SliceCursor* header, uint32_t index) const {
  const LayerStateSpec& spec = state_->layout().layers[index];
  const auto kind = header->Read<uint32_t>();
  const auto kv_heads = header->Read<uint32_t>();
  const auto head_dim = header->Read<uint32_t>();
  const auto width = header->Read<uint32_t>();
  const auto conv_history = header->Read<uint32_t>();
  const auto zero = header->Read<uint32_t>();
  const auto visible_keys = header->Read<uint64_t>();
  const bool equal = kind == static_cast<uint32_t>(spec.kind) && kv_heads == static_cast<uint32_t>(spec.kv_heads) &&
                     head_dim == static_cast<uint32_t>(spec.head_dim) && width == static_cast<uint32_t>(spec.width) &&
                     conv_history == static_cast<uint32_t>(spec.conv_history) && zero == 0 &&
                     visible_keys == static_cast<uint64_t>(spec.visible_keys);
  if (equal) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat("sequence state: layer ", index, " has another shape here"));
}

absl::Status StateReader::CheckSection(uint32_t layer, bool recurrent) const {
  if (layer >= progress_.size()) return Malformed("layer ", layer, " of ", progress_.size());
  if ((state_->layout().layers[layer].kind == LayerStateSpec::Kind::kRecurrent) != recurrent) {
    return Malformed("layer ", layer, " has no ", recurrent ? "recurrent state" : "keys and values");
  }
  return absl::OkStatus();
}

absl::Status StateReader::FeedKv(SliceCursor payload) {
  if (payload.remaining() < wire::kKvBytes) return Malformed("a section is too short");
  const auto layer = payload.Read<uint32_t>();
  const auto count = payload.Read<uint32_t>();
  const auto first = payload.Read<uint64_t>();
  BATON_RETURN_IF_ERROR(CheckSection(layer, /*recurrent=*/false));
  const int64_t expected = progress_[layer];
  if (first != static_cast<uint64_t>(expected)) {
    return Malformed("layer ", layer, " goes on at position ", first, ", not ", expected);
  }
  if (count < 1 || count > final_position_ - expected) {
    return Malformed("layer ", layer, ": ", count, " positions from ", expected, " of ", final_position_);
  }
  // `count` positions fit the reservation, so their bytes fit int64.
  const LayerStateSpec& spec = state_->layout().layers[layer];
  const int64_t row_bytes = encoding_ == KvEncoding::kInt8 ? spec.head_dim + static_cast<int64_t>(wire::kInt8ScaleBytes)
                                                           : spec.head_dim * ElementBytes(state_->layout().element);
  const int64_t rows_bytes = 2 * spec.kv_heads * row_bytes * count;
  if (payload.remaining() != static_cast<uint64_t>(rows_bytes)) {
    return Malformed("layer ", layer, ": ", payload.remaining(), " bytes for ", count, " positions");
  }
  if (encoding_ == KvEncoding::kInt8) {
    StoreInt8Rows(static_cast<int>(layer), expected, count, payload);
  } else {
    StoreRows(static_cast<int>(layer), expected, count, payload);
  }
  progress_[layer] += count;
  return absl::OkStatus();
}

void StateReader::StoreRows(int layer, int64_t first, int64_t count, SliceCursor rows) {
  const LayerStateSpec& spec = state_->layout().layers[layer];
  const int64_t row_bytes = spec.head_dim * ElementBytes(state_->layout().element);
  const int64_t page_tokens = state_->layout().page_tokens;
  for (const bool value : {false, true}) {
    for (int head = 0; head < spec.kv_heads; ++head) {
      for (int64_t position = first; position < first + count;) {
        // Rows of a head lie side by side within a page.
        const int64_t run = std::min(first + count - position, page_tokens - position % page_tokens);
        rows.CopyTo(value ? state_->MutableValueRow(layer, head, position)  //
                          : state_->MutableKeyRow(layer, head, position),
                    run * row_bytes);
        position += run;
      }
    }
  }
}

void StateReader::StoreInt8Rows(int layer, int64_t first, int64_t count, SliceCursor codes) {
  const LayerStateSpec& spec = state_->layout().layers[layer];
  const bool f32 = state_->layout().element == ElementType::kF32;
  const int64_t head_dim = spec.head_dim;
  row_.resize(head_dim);
  values_.resize(head_dim);
  for (const bool value : {false, true}) {
    SliceCursor scales = codes.After(spec.kv_heads * count * head_dim);
    for (int head = 0; head < spec.kv_heads; ++head) {
      for (int64_t position = first; position < first + count; ++position) {
        codes.CopyTo(row_.data(), head_dim);
        DequantizeKvRow(reinterpret_cast<const int8_t*>(row_.data()), scales.Read<uint16_t>(), head_dim,
                        values_.data());
        std::byte* row = value ? state_->MutableValueRow(layer, head, position)  //
                               : state_->MutableKeyRow(layer, head, position);
        if (f32) {
          std::memcpy(row, values_.data(), head_dim * sizeof(float));
        } else {
          StoreAsBf16(values_.data(), head_dim, reinterpret_cast<uint16_t*>(row));
        }
      }
    }
    codes = scales;
  }
}

absl::Status StateReader::FeedRecurrent(SliceCursor payload) {
  if (payload.remaining() < wire::kRecurrentBytes) return Malformed("a section is too short");
  const auto layer = payload.Read<uint32_t>();
  const auto zero = payload.Read<uint32_t>();
  const auto position = payload.Read<uint64_t>();
  BATON_RETURN_IF_ERROR(CheckSection(layer, /*recurrent=*/true));
  if (zero != 0) return Malformed("reserved bytes of a recurrent section are not zero");
  if (position != static_cast<uint64_t>(final_position_)) {
    return Malformed("layer ", layer, ": recurrent state at position ", position, ", not ", final_position_);
  }
  if (progress_[layer] != 0) return Malformed("layer ", layer, ": recurrent state was sent twice");
  const absl::Span<float> rg_lru = state_->RgLruState(static_cast<int>(layer));
  const absl::Span<std::byte> conv = state_->ConvState(static_cast<int>(layer));
  const size_t rg_lru_bytes = rg_lru.size() * sizeof(float);
  if (payload.remaining() != rg_lru_bytes + conv.size()) {
    return Malformed("layer ", layer, ": ", payload.remaining(), " bytes of recurrent state");
  }
  payload.CopyTo(rg_lru.data(), rg_lru_bytes);
  payload.CopyTo(conv.data(), conv.size());
  progress_[layer] = 1;
  return absl::OkStatus();
}

absl::Status StateReader::FeedCommit(SliceCursor payload) {
  if (payload.remaining() < wire::kCommitBytes) return Malformed("the commit is too short");
  const auto position = payload.Read<uint64_t>();
  const auto sections = payload.Read<uint64_t>();
  const auto chain = payload.Read<uint64_t>();
  CommitRecord commit;
  commit.position = final_position_;
  uint32_t samples = 1;
  if (sample_list_) {
    if (payload.remaining() < wire::kSampleCountBytes) return Malformed("the commit is too short");
    samples = payload.Read<uint32_t>();
    if (payload.Read<uint32_t>() != 0) return Malformed("reserved bytes of the commit are not zero");
    if (samples < 2 || samples > kMaxSamples) return Malformed("a commit of a list of ", samples, " samples");
  }
  commit.first_tokens.resize(samples);
  for (FirstTokenRecord& token : commit.first_tokens) {
    BATON_RETURN_IF_ERROR(TakeFirstToken(&payload, sample_list_, &token));
  }
  if (payload.remaining() > 0) return Malformed("the commit's size is wrong");

  if (position != static_cast<uint64_t>(final_position_)) {
    return Malformed("commit at position ", position, ", not ", final_position_);
  }
  for (size_t i = 0; i < progress_.size(); ++i) {
    const bool recurrent = state_->layout().layers[i].kind == LayerStateSpec::Kind::kRecurrent;
    const int64_t complete = recurrent ? 1 : final_position_;
    if (progress_[i] != complete) return Malformed("commit, but layer ", i, " is incomplete");
  }
  if (sections != sections_) return Malformed("commit of ", sections, " sections, but ", sections_, " came");
  if (chain != chain_) {
    return absl::DataLossError("sequence state: the commit's chain does not match the sections received");
  }
  state_->SetPosition(final_position_);
  commit_ = std::move(commit);
  return absl::OkStatus();
}

}  // namespace baton
