// The wire format of a sequence state (docs/state-format.md): a header, sections, a commit. Written in pieces while
// prefill computes; read into a state that was reserved beforehand; nothing of it counts before the commit verifies.
//
// Writer (prefill side): one per handoff.
//   StateWriter writer(fingerprint, layout, prompt_tokens);
//   writer.AppendHeader(&bytes);
//   for each chunk:  forward(...);  writer.AppendPieces(state, &bytes);   // what became final and will be needed
//   writer.AppendCommit(first_token, &bytes);
//   Cut `bytes` into messages with WholeStateFrames.
//
// Reader (decode side): one per reservation. Any byte sequence is safe to feed.
//   StateReader reader(fingerprint, &state);
//   absl::Status s = reader.Feed(chunk);      // INVALID_ARGUMENT / DATA_LOSS / FAILED_PRECONDITION; final once not OK
//   if (reader.committed()) { ... reader.commit().position ... }
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/types/optional.h"
#include "common/state/fingerprint.h"
#include "common/state/sequence_state.h"

namespace baton {

// No frame is longer, unless one position of one layer (or one layer's recurrent state) is.
inline constexpr size_t kStateFrameTargetBytes = size_t{256} << 10;

// Where to cut what a StateWriter wrote: the length of the longest prefix that is whole frames and at most `max_bytes`
// long, or of the first frame if that alone is longer. 0 only for empty `frames`.
size_t WholeStateFrames(absl::string_view frames, size_t max_bytes);

// The token sampled from the last prompt position, which decode consumes first, with its log probabilities.
struct FirstTokenRecord {
  int32_t id = 0;
  bool has_logprobs = false;
  bool is_greedy = false;
  float logprob = 0;
  std::vector<int32_t> top_ids;
  std::vector<float> top_logprobs;
};

struct CommitRecord {
  // Tokens the state has consumed.
  int64_t position = 0;
  FirstTokenRecord first_token;
};

class StateWriter {
 public:
  // `layout` must outlive the writer. `final_position`: where the handoff will happen (prompt length); window rows that
  // will have left the window by then are never sent.
  StateWriter(const Fingerprint& fingerprint, const StateLayout& layout, int64_t final_position);

  // Call first. Appends the stream header.
  void AppendHeader(std::string* out);
  // Appends the sections for all positions in [already sent, state.position()) that decode needs. Recurrent sections
  // are written only once state.position() == final_position.
  void AppendPieces(const SequenceState& state, std::string* out);
  // The same in parts, for a sender with limited room: appends at most `max_bytes` (or one frame, if that alone is
  // longer). True when nothing is left for now; else call it again, with the state where it is or further on.
  bool AppendPieces(const SequenceState& state, size_t max_bytes, std::string* out);
  // Call once, after AppendPieces at final_position.
  void AppendCommit(const FirstTokenRecord& first_token, std::string* out);

 private:
  // The next section of the sweep, or nothing when that would take more than max_bytes and not `always`.
  bool AppendSection(const SequenceState& state, bool always, size_t max_bytes, std::string* out);
  void AppendKv(const SequenceState& state, int layer, int64_t first, int64_t count, std::string* out);
  void AppendRecurrent(const SequenceState& state, int layer, std::string* out);
  void EndSection(size_t frame_begin, std::string* out);

  Fingerprint fingerprint_;
  const StateLayout* layout_;
  int64_t final_position_;
  bool header_written_ = false;
  bool commit_written_ = false;
  // Every layer has been written for all positions before this one.
  int64_t sent_position_ = 0;
  // A sweep writes positions [sent_position_, sweep_end_) layer by layer; it has come to this layer and position.
  int64_t sweep_end_ = 0;
  size_t sweep_layer_ = 0;
  int64_t sweep_position_ = 0;
  uint64_t sections_ = 0;
  uint64_t chain_ = 0;
};

class StateReader {
 public:
  // `state` must outlive the reader, be freshly created, and is modified by Feed up to the commit; not after it.
  StateReader(const Fingerprint& expected, SequenceState* state);

  // Whole frames only (a chunk boundary never splits a frame).
  //   FAILED_PRECONDITION  version, fingerprint or layout differ
  //   INVALID_ARGUMENT     malformed, out of range, duplicate or missing sections
  //   DATA_LOSS            a checksum does not match
  absl::Status Feed(absl::string_view frames);
  bool committed() const { return commit_.has_value(); }
  // Only when committed. Token ids are >= 0, but the wire does not know the vocabulary: check them against it.
  const CommitRecord& commit() const { return *commit_; }
  int64_t bytes_received() const { return bytes_received_; }

 private:
  // Consumes one frame.
  absl::Status FeedNext(absl::string_view* frames);
  absl::Status FeedHeader(absl::string_view payload, uint64_t checksum);
  absl::Status CheckLayer(absl::string_view header, uint32_t index) const;
  absl::Status CheckSection(absl::string_view payload, bool recurrent) const;
  absl::Status FeedKv(absl::string_view payload);
  absl::Status FeedRecurrent(absl::string_view payload);
  absl::Status FeedCommit(absl::string_view payload);

  Fingerprint expected_;
  SequenceState* state_;
  absl::Status status_;
  bool header_seen_ = false;
  int64_t final_position_ = 0;
  // Per layer. KV: rows are sent in ascending order; the next expected position. Recurrent: 0 or 1 received.
  std::vector<int64_t> progress_;
  uint64_t sections_ = 0;
  uint64_t chain_ = 0;
  int64_t bytes_received_ = 0;
  absl::optional<CommitRecord> commit_;
};

}  // namespace baton
