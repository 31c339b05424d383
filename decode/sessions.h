// Conversations that may go on: the states of finished turns, by id, until they expire.
//
// A kept state is a snapshot in the worker's state memory, where it takes only what nobody else needs: within its own
// limit, and least recently used first whenever a reservation finds no room (MakeRoom). With a directory every state is
// also written to a file there, at once and by a thread of its own; so one that is dropped from memory, or whose worker
// is gone, can be continued by any worker of the same model that shares the directory. Without one, it is gone.
//
// Who does not show the identity that a session was kept for hears that there is none. A session can be continued any
// number of times; each continuation that is kept is a session of its own.
//
//   Sessions sessions(options, fingerprint, &budget, &metrics, on_change);
//   absl::optional<absl::Time> expires = sessions.Keep(key, tokens, std::move(state));       // the engine
//   BATON_ASSIGN_OR_RETURN(SessionInfo info, sessions.Open(key));                            // NOT_FOUND
//   BATON_ASSIGN_OR_RETURN(std::unique_ptr<SessionFrames> frames, sessions.Read(key));
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "common/state/fingerprint.h"
#include "common/state/memory_budget.h"
#include "common/state/sequence_state.h"
#include "decode/session_file.h"
#include "decode/session_metrics.h"

namespace baton {

struct SessionOptions {
  // How long a session can be continued after its turn. Zero: nothing is kept.
  absl::Duration ttl;
  // Bytes of state memory that kept states may take.
  int64_t memory_bytes = 0;
  // Where files go; empty: nowhere. Any number of workers may share it.
  std::string directory;
  // Bytes of files in the directory: those that expire first make room.
  int64_t directory_bytes = 0;
};

struct SessionKey {
  std::string id;        // kSessionIdBytes
  std::string identity;  // kIdentityBytes
};

struct SessionInfo {
  std::vector<int32_t> tokens;
  // Tokens that the kept state has consumed.
  int64_t position = 0;
  absl::Time expires;
  // It can be resumed here.
  bool in_memory = false;
};

// A session to go on with in this worker. The state has consumed the first snapshot.position of the tokens.
struct KeptSession {
  std::vector<int32_t> tokens;
  StateSnapshot snapshot;
};

// A kept state in the wire format, piece by piece.
class SessionFrames {
 public:
  virtual ~SessionFrames() = default;
  // Appends whole frames; nothing after the last.
  virtual absl::Status Next(std::string* frames) = 0;
};

// Of a state that goes no further. `on_freed`: called once its memory is free.
std::unique_ptr<SessionFrames> FramesOf(
    SequenceState state, const Fingerprint& fingerprint, std::function<void()> on_freed = [] {});

class Sessions {
 public:
  // Everything pointed at must outlive it. The directory must exist.
  // `on_change`: hears how many are in memory, and how many bytes of it MakeRoom could free; called with locks held.
  Sessions(const SessionOptions& options, const Fingerprint& fingerprint, MemoryBudget* budget, SessionMetrics* metrics,
           std::function<void(int64_t count, int64_t bytes)> on_change);
  // Writes what has not been written.
  ~Sessions();
  Sessions(const Sessions&) = delete;

  bool enabled() const { return options_.ttl > absl::ZeroDuration(); }
  // Until when it can be continued; absent when there is no room, or sessions are off. `tokens` are as in
  // SessionRecord.
  absl::optional<absl::Time> Keep(const SessionKey& key, std::vector<int32_t> tokens, SequenceState state);
  // NOT_FOUND: unknown, expired, dropped, or kept for another identity.
  absl::StatusOr<SessionInfo> Open(const SessionKey& key);
  // The same errors, also when only a file has it. The state's pages are shared with whoever goes on from it.
  absl::StatusOr<KeptSession> Resume(const SessionKey& key);
  // The same errors, and RESOURCE_EXHAUSTED when there is no memory to read it.
  absl::StatusOr<std::unique_ptr<SessionFrames>> Read(const SessionKey& key);
  // Drops states from memory, least recently used first, until `bytes` of them are free. True: something was dropped.
  bool MakeRoom(int64_t bytes);
  // Waits until everything kept so far has been written or has failed to be. For tests and the end.
  void Flush();

 private:
  struct Entry {
    SessionRecord record;
    StateSnapshot snapshot;
    int64_t bytes = 0;
    uint64_t last_used = 0;
    // To be written.
    bool unwritten = false;
    bool in_directory = false;
  };
  using Entries = std::map<std::string, Entry>;  // by id

  Entry* Find(const SessionKey& key) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<SessionFile> OpenFile(const SessionKey& key) const;
  void Drop(Entries::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Frees at least `bytes`; what is not written yet goes last.
  bool DropOldest(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Trim() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Report() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // The thread that writes files and removes what has expired.
  void Loop();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void DropExpired(absl::Time now) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Write(const SessionRecord& record, const StateSnapshot& snapshot);
  // To be read, not to go on.
  absl::StatusOr<SequenceState> Materialize(const StateSnapshot& snapshot);

  const SessionOptions options_;
  const Fingerprint fingerprint_;
  MemoryBudget* const budget_;
  SessionMetrics* const metrics_;
  const std::function<void(int64_t, int64_t)> on_change_;

  absl::Mutex mutex_;
  Entries entries_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  uint64_t uses_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t unwritten_ ABSL_GUARDED_BY(mutex_) = 0;
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace baton
