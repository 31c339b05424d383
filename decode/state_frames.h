// A state that goes no further, in the wire format, some frames at a time.
//
//   StateFrames frames(state, fingerprint);
//   while (frames.Next(kStateFrameTargetBytes, &bytes)) ...
//
// The commit's first token says nothing: whoever reads knows what follows.
#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "common/state/state_codec.h"

namespace baton {

class StateFrames {
 public:
  // `state` must outlive it.
  StateFrames(const SequenceState& state, const Fingerprint& fingerprint)
      : writer_(fingerprint, state.layout(), state.position()), owner_(&state, [](const void*) {}) {
    StateCutter cutter(state.layout(), state.position());
    cutter.AllLayersDone(state, &pieces_);
  }

  // Appends frames of about `max_bytes` in all, at least one. False: there were no more.
  bool Next(size_t max_bytes, std::string* out) {
    if (committed_) return false;
    ByteChain bytes;
    if (!begun_) writer_.WriteHeader(&bytes);
    begun_ = true;
    while (next_ < pieces_.size() && bytes.size() < max_bytes) writer_.WritePiece(pieces_[next_++], owner_, &bytes);
    if (next_ == pieces_.size()) {
      const FirstTokenRecord none;
      writer_.WriteCommit({&none, 1}, &bytes);
      committed_ = true;
    }
    bytes.AppendTo(out);
    return true;
  }

 private:
  StateFrameWriter writer_;
  // Of the state's rows, for as long as frames reference them: within a call of Next.
  const std::shared_ptr<const void> owner_;
  std::vector<StatePiece> pieces_;
  size_t next_ = 0;
  bool begun_ = false;
  bool committed_ = false;
};

}  // namespace baton
