// Copies of the states of sequences that run on other decode workers: should such a worker be lost, the request goes on
// from here instead of from its first token.
//
// Each sequence has at most one whole copy here, under a key that only its worker and its gateway know; a newer one
// takes its place when it has been verified, and not before. Whoever goes on from a copy takes it. Its worker drops it
// when the sequence ends; the copy of a worker that died expires.
//
// Copies take only memory that nobody else needs: within a limit of their own, beyond which the oldest goes, and all of
// them whenever a reservation finds no room (MakeRoom). Bytes are those of the worker's budget, to the byte.
//
//   StateCheckpoints checkpoints(options, layout, fingerprint, &budget, &metrics, on_change);
//   BATON_ASSIGN_OR_RETURN(std::unique_ptr<IncomingCheckpoint> incoming, checkpoints.Begin(key, position));
//   BATON_RETURN_IF_ERROR(incoming->Feed(frames)); ...
//   if (incoming->commit() != nullptr) incoming->Keep();
//   ...
//   BATON_ASSIGN_OR_RETURN(SequenceState state, checkpoints.Take(key));
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
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "common/state/fingerprint.h"
#include "common/state/memory_budget.h"
#include "common/state/sequence_state.h"
#include "common/state/state_codec.h"
#include "decode/checkpoint_metrics.h"
#include "decode/sessions.h"

namespace baton {

struct CheckpointOptions {
  // Generated tokens between two copies of a sequence that runs here; 0: none are made.
  int tokens = 0;
  // Bytes of state memory that copies of other workers' sequences may take; 0: none are kept.
  int64_t memory_bytes = 0;
  // How long a copy is kept after it came.
  absl::Duration ttl = absl::Minutes(5);
  // Prompt plus output of the longest sequence.
  int64_t max_tokens = 0;
};

class StateCheckpoints;

// A copy on its way here. Its bytes are reserved; they are free when it is destroyed without having been kept. Used by
// one thread at a time, and not longer than its owner.
class IncomingCheckpoint {
 public:
  ~IncomingCheckpoint();
  IncomingCheckpoint(const IncomingCheckpoint&) = delete;

  // Errors of StateReader::Feed.
  absl::Status Feed(absl::Span<const absl::string_view> frames) { return reader_->Feed(frames); }
  // nullptr until a commit was fed.
  const CommitRecord* commit() const { return reader_->committed() ? &reader_->commit() : nullptr; }
  int64_t bytes_received() const { return reader_->bytes_received(); }
  // Once committed. INVALID_ARGUMENT: it is at another position than was said. NOT_FOUND: dropped meanwhile.
  absl::Status Keep();

 private:
  friend class StateCheckpoints;
  IncomingCheckpoint(StateCheckpoints* owner, SessionKey key, int64_t position, int64_t bytes)
      : owner_(owner), key_(std::move(key)), position_(position), bytes_(bytes) {}

  StateCheckpoints* const owner_;
  const SessionKey key_;
  const int64_t position_;
  // Of its reservation.
  const int64_t bytes_;
  absl::optional<SequenceState> state_;
  absl::optional<StateReader> reader_;
  // Under the owner's mutex: it is not wanted any more.
  bool dropped_ = false;
};

class StateCheckpoints {
 public:
  // Everything pointed at must outlive it. `layout`: of the worker's states. `on_change` hears how many there are,
  // and how many bytes MakeRoom could free; called with locks held.
  StateCheckpoints(const CheckpointOptions& options, std::shared_ptr<const StateLayout> layout,
                   const Fingerprint& fingerprint, MemoryBudget* budget, CheckpointMetrics* metrics,
                   std::function<void(int64_t count, int64_t bytes)> on_change);
  ~StateCheckpoints();
  StateCheckpoints(const StateCheckpoints&) = delete;

  // Reserves room for a copy at this position; the oldest ones give way.
  //   FAILED_PRECONDITION  no copies are kept here
  //   INVALID_ARGUMENT     no sequence is ever at this position
  //   ALREADY_EXISTS       one that is as new is here or on its way
  //   NOT_FOUND            the id is that of another's copy
  //   RESOURCE_EXHAUSTED   no room
  absl::StatusOr<std::unique_ptr<IncomingCheckpoint>> Begin(const SessionKey& key, int64_t position);
  // The newest whole copy, which is then no longer here. NOT_FOUND: there is none (any more).
  absl::StatusOr<SequenceState> Take(const SessionKey& key);
  // It is not needed any more, and neither is one on its way.
  void Drop(const SessionKey& key);
  // Drops copies, the oldest first, until `bytes` of them are free. True: something was dropped.
  bool MakeRoom(int64_t bytes);

 private:
  friend class IncomingCheckpoint;
  struct Entry {
    std::string identity;
    SequenceState state;
    int64_t bytes = 0;
    absl::Time expires;
  };
  using Entries = std::map<std::string, Entry>;  // by id

  absl::Status Keep(IncomingCheckpoint& incoming);
  void Forget(const IncomingCheckpoint& incoming);
  // What it held is freed when the entry that is returned goes.
  Entry Remove(Entries::iterator entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Until `bytes` are free below the limit. False: they never will be.
  bool EvictFor(int64_t bytes) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void EvictOldest() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void Report() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Drops what expires.
  void Loop();
  bool HasNews() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || news_; }

  const CheckpointOptions options_;
  const std::shared_ptr<const StateLayout> layout_;
  const Fingerprint fingerprint_;
  MemoryBudget* const budget_;
  CheckpointMetrics* const metrics_;
  const std::function<void(int64_t, int64_t)> on_change_;

  absl::Mutex mutex_;
  Entries entries_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  // At most one for each id.
  std::map<std::string, IncomingCheckpoint*> incoming_ ABSL_GUARDED_BY(mutex_);
  int64_t incoming_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  // There is an entry where there was none.
  bool news_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace baton
