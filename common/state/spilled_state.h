// A sequence state that waits on disk: the wire format (state_codec.h) in a file without a name, which is gone with the
// process however that ends, and which nobody else can open.
//
//   BATON_ASSIGN_OR_RETURN(SpilledState spilled, SpillState("/var/tmp", fingerprint, state, next_token));
//   state.reset();                                       // its memory is free
//   ...
//   BATON_ASSIGN_OR_RETURN(SequenceState again, SequenceState::Create(layout, budget, tokens));
//   BATON_RETURN_IF_ERROR(RestoreState(spilled, fingerprint, next_token, &again));     // bit for bit what it was
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "common/base/file_descriptor.h"
#include "common/state/fingerprint.h"
#include "common/state/sequence_state.h"

namespace baton {

class SpilledState {
 public:
  // Of the file.
  int64_t bytes() const { return bytes_; }

 private:
  friend absl::StatusOr<SpilledState> SpillState(const std::string&, const Fingerprint&, const SequenceState&, int32_t);
  friend absl::Status RestoreState(const SpilledState&, const Fingerprint&, int32_t, SequenceState*);
  FileDescriptor file_;
  // Bytes of each part of the file: whole frames.
  std::vector<size_t> parts_;
  int64_t bytes_ = 0;
};

// `state` has consumed at least one token and lies between two runs; `next_token` is the one it consumes next. Errors
// name the directory:
//   NOT_FOUND, PERMISSION_DENIED, ...   the directory cannot be written
//   RESOURCE_EXHAUSTED                  the disk is full
absl::StatusOr<SpilledState> SpillState(const std::string& directory, const Fingerprint& fingerprint,
                                        const SequenceState& state, int32_t next_token);

// `state`: freshly created, with room for more tokens than the spilled one had consumed. DATA_LOSS when the file does
// not hold what was written; `state` is then of no use. May be called again.
absl::Status RestoreState(const SpilledState& spilled, const Fingerprint& fingerprint, int32_t next_token,
                          SequenceState* state);

}  // namespace baton
