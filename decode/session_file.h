// A kept session in a file: who may continue it and until when, its tokens, and its state in the wire format of
// docs/state-format.md. docs/session-format.md specifies the file.
//
// A file appears whole or not at all: it is written under a temporary name, synced and renamed, and can be read only by
// its owner. Its name and contents are made of a hash of the session's id, from which nobody gets the id. Its time of
// modification is when it expires. Whatever a file holds, reading it is safe; what it says is checked before it is
// used.
//
//   BATON_RETURN_IF_ERROR(WriteSessionFile(directory, record, fingerprint, state));
//   BATON_ASSIGN_OR_RETURN(SessionFile file, SessionFile::Open(directory, id, fingerprint));
//   if (file.record().identity == ...) while (...) file.ReadFrames(kStateFrameTargetBytes, &frames);
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/base/file_descriptor.h"
#include "common/rpc/worker_request.h"
#include "common/state/fingerprint.h"
#include "common/state/sequence_state.h"

namespace baton {

struct SessionRecord {
  // kSessionIdBytes, from the system's random generator.
  std::string id;
  // A hash of what the caller has shown for itself, kIdentityBytes; zeros: nothing.
  std::string identity = std::string(kIdentityBytes, '\0');
  // Whole milliseconds.
  absl::Time expires;
  // The conversation so far: at least as many as the state has consumed, at most one more.
  std::vector<int32_t> tokens;
  // Tokens that the state has consumed.
  int64_t position = 0;
};

// "<64 hex digits>.session".
std::string SessionFileName(absl::string_view id);

// RESOURCE_EXHAUSTED when the disk, or a quota, is full; UNAVAILABLE for other errors. Then there is no file.
// `state`: at record.position.
absl::Status WriteSessionFile(const std::string& directory, const SessionRecord& record, const Fingerprint& fingerprint,
                              const SequenceState& state);

// What a file begins with. Never more is read than `head` holds.
//   DATA_LOSS            too short, or a checksum does not match
//   FAILED_PRECONDITION  another version
//   NOT_FOUND            of another model, or another session
absl::StatusOr<SessionRecord> ParseSessionHead(absl::string_view head, absl::string_view id,
                                               const Fingerprint& fingerprint);

class SessionFile {
 public:
  // NOT_FOUND when there is none, or it is of another model; else as ParseSessionHead.
  static absl::StatusOr<SessionFile> Open(const std::string& directory, absl::string_view id,
                                          const Fingerprint& fingerprint);

  const SessionRecord& record() const { return record_; }
  // Appends whole frames of the state, up to about `max_bytes` (or one, if that alone is longer). None at the end of
  // the file. DATA_LOSS when the file ends within one; whether frames are right is for a StateReader to say.
  absl::Status ReadFrames(size_t max_bytes, std::string* frames);

 private:
  SessionFile(FileDescriptor file, SessionRecord record) : file_(std::move(file)), record_(std::move(record)) {}

  FileDescriptor file_;
  SessionRecord record_;
};

}  // namespace baton
