// A state that goes no further, in the wire format, some frames at a time.
//
//   StateFrames frames(state, fingerprint);
//   while (frames.Next(kStateFrameTargetBytes, &bytes)) ...
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "common/state/state_codec.h"

namespace baton {

class StateFrames {
 public:
  // `state` must outlive it. `next_token`: the commit's first token; readers that know what follows ignore it.
  StateFrames(const SequenceState& state, const Fingerprint& fingerprint, int32_t next_token = 0)
      : writer_(fingerprint, state.layout(), state.position()), owner_(&state, [](const void*) {}) {
    next_token_.id = next_token;
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
      writer_.WriteCommit({&next_token_, 1}, &bytes);
      committed_ = true;
    }
    bytes.AppendTo(out);
    return true;
  }

 private:
  StateFrameWriter writer_;
  // Of the state's rows, for as long as frames reference them: within a call of Next.
  const std::shared_ptr<const void> owner_;
  FirstTokenRecord next_token_;
  std::vector<StatePiece> pieces_;
  size_t next_ = 0;
  bool begun_ = false;
  bool committed_ = false;
};

}  // namespace baton
