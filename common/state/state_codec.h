// The wire format of a sequence state (docs/state-format.md): a header, sections, a commit. Written in pieces while
// prefill computes; read into a state that was reserved beforehand; nothing of it counts before the commit verifies.
//
// Writer: one per handoff. Into one buffer:
//   StateWriter writer(fingerprint, layout, prompt_tokens);
//   writer.AppendHeader(&bytes);
//   for each chunk:  forward(...);  writer.AppendPieces(state, &bytes);   // what became final and will be needed
//   writer.AppendCommit(first_tokens, &bytes);
//   Cut `bytes` into messages with WholeStateFrames.
// Without copying rows, from pieces that a StateCutter names while a layer after the other is computed:
//   StateFrameWriter frames(fingerprint, layout, prompt_tokens, KvEncoding::kExact);
//   frames.WriteHeader(&chain);
//   for each piece:  frames.WritePiece(piece, owner, &chain);
//   frames.WriteCommit(first_tokens, &chain);
//
// Reader (decode side): one per reservation. Any byte sequence is safe to feed, also one that changes while it is read.
//   StateReader reader(fingerprint, &state);
//   absl::Status s = reader.Feed(chunk);      // INVALID_ARGUMENT / DATA_LOSS / FAILED_PRECONDITION; final once not OK
//   if (reader.committed()) { ... reader.commit().position ... }
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "common/state/byte_slices.h"
#include "common/state/fingerprint.h"
#include "common/state/sequence_state.h"
#include "common/state/state_pieces.h"

namespace baton {

// No frame is longer, unless one position of one layer (or one layer's recurrent state) is. A page of 256 KiB fits.
inline constexpr size_t kStateFrameTargetBytes = (size_t{256} << 10) + 64;

// How K and V travel. kInt8 loses precision: 8-bit codes with one bfloat16 scale for each (position, head, K or V).
enum class KvEncoding : uint8_t { kExact = 0, kInt8 = 1 };

// Where to cut what a StateWriter wrote: the length of the longest prefix that is whole frames and at most `max_bytes`
// long, or of the first frame if that alone is longer. 0 only for empty `frames`.
size_t WholeStateFrames(absl::string_view frames, size_t max_bytes);

// Samples of one prompt that a commit can start.
inline constexpr size_t kMaxSamples = 128;

// The token that a sample drew from the last prompt position, which decode consumes first, with its log probabilities.
struct FirstTokenRecord {
  int32_t id = 0;
  // It ends its sample: nothing is decoded. Travels where there are several; of a single one the receiver knows.
  bool ends = false;
  bool has_logprobs = false;
  bool is_greedy = false;
  float logprob = 0;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
};

struct CommitRecord {
  // Tokens the state has consumed.
  int64_t position = 0;
  // Of samples 0, 1, ...: 1 to kMaxSamples.
  std::vector<FirstTokenRecord> first_tokens;
};

// Serializes frames one by one. Rows are referenced where they lie, not copied (kInt8 makes new ones).
class StateFrameWriter {
 public:
  // `layout` must outlive it. `final_position`: where the handoff will happen (prompt length). `samples`: first tokens
  // that the commit will have.
  StateFrameWriter(const Fingerprint& fingerprint, const StateLayout& layout, int64_t final_position,
                   KvEncoding encoding = KvEncoding::kExact, size_t samples = 1);

  // First.
  void WriteHeader(ByteChain* out);
  // `owner` keeps the rows that the piece names alive.
  void WritePiece(const StatePiece& piece, const std::shared_ptr<const void>& owner, ByteChain* out);
  // Last, when all pieces of the final position have been written.
  void WriteCommit(absl::Span<const FirstTokenRecord> first_tokens, ByteChain* out);
  // Bytes that WritePiece will append.
  size_t FrameBytes(const StatePiece& piece) const;

 private:
  size_t PayloadBytes(const StatePiece& piece) const;
  std::string EncodeInt8(const StatePiece& piece) const;

  Fingerprint fingerprint_;
  const StateLayout* layout_;
  int64_t final_position_;
  KvEncoding encoding_;
  size_t samples_;
  bool header_written_ = false;
  bool commit_written_ = false;
  uint64_t sections_ = 0;
  uint64_t chain_ = 0;
};

// The same into strings, for those who have the whole state at hand.
class StateWriter {
 public:
  // As StateFrameWriter. Window rows that will have left the window at `final_position` are never written.
  StateWriter(const Fingerprint& fingerprint, const StateLayout& layout, int64_t final_position,
              KvEncoding encoding = KvEncoding::kExact, size_t samples = 1);

  // Call first. Appends the stream header.
  void AppendHeader(std::string* out);
  // Appends the sections of what is final at state.position(), will be needed and was not appended before: K and V in
  // whole pages, up to the final position; recurrent state once it is reached.
  void AppendPieces(const SequenceState& state, std::string* out);
  // Call once, after AppendPieces at final_position.
  void AppendCommit(absl::Span<const FirstTokenRecord> first_tokens, std::string* out);
  void AppendCommit(const FirstTokenRecord& only, std::string* out) { AppendCommit({&only, 1}, out); }

 private:
  StateCutter cutter_;
  StateFrameWriter frames_;
  bool header_written_ = false;
};

class StateReader {
 public:
  // `state` must outlive the reader, be freshly created, and is modified by Feed up to the commit; not after it.
  StateReader(const Fingerprint& expected, SequenceState* state);

  // Whole frames only (a chunk boundary never splits a frame); slices may cut them anywhere.
  //   FAILED_PRECONDITION  version, fingerprint or layout differ
  //   INVALID_ARGUMENT     malformed, out of range, duplicate or missing sections
  //   DATA_LOSS            a checksum does not match
  absl::Status Feed(absl::Span<const absl::string_view> slices);
  absl::Status Feed(absl::string_view frames) { return Feed(absl::MakeConstSpan(&frames, 1)); }
  bool committed() const { return commit_.has_value(); }
  // Only when committed. Token ids are >= 0, but the wire does not know the vocabulary: check them against it.
  const CommitRecord& commit() const { return *commit_; }
  int64_t bytes_received() const { return bytes_received_; }

 private:
  // Consumes one frame.
  absl::Status FeedNext(SliceCursor* frames);
  absl::Status FeedHeader(SliceCursor payload, uint64_t checksum);
  absl::Status CheckLayer(SliceCursor* header, uint32_t index) const;
  absl::Status CheckSection(uint32_t layer, bool recurrent) const;
  absl::Status FeedKv(SliceCursor payload);
  void StoreRows(int layer, int64_t first, int64_t count, SliceCursor rows);
  void StoreInt8Rows(int layer, int64_t first, int64_t count, SliceCursor rows);
  absl::Status FeedRecurrent(SliceCursor payload);
  absl::Status FeedCommit(SliceCursor payload);

  Fingerprint expected_;
  SequenceState* state_;
  absl::Status status_;
  bool header_seen_ = false;
  KvEncoding encoding_ = KvEncoding::kExact;
  bool sample_list_ = false;
  int64_t final_position_ = 0;
  // Per layer. KV: rows are sent in ascending order; the next expected position. Recurrent: 0 or 1 received.
  std::vector<int64_t> progress_;
  uint64_t sections_ = 0;
  uint64_t chain_ = 0;
  int64_t bytes_received_ = 0;
  std::vector<char> row_;  // scratch of StoreInt8Rows
  std::vector<float> values_;
  absl::optional<CommitRecord> commit_;
};

}  // namespace baton
