// The thread that writes sequence states to disk and reads them back, so that the engine never waits for a disk.
//
//   StateSpiller spiller(options, [&] { wake the engine });
//   spiller.Submit({.sequence = 7, .next_token = 42, .state = std::move(state)});        // to disk
//   spiller.Submit({.sequence = 7, .next_token = 42, .state = empty, .file = file});     // and back
//   for (StateMove& move : spiller.TakeDone()) ...
//
// Moves are done one after the other, in order. Thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/optional.h"
#include "common/state/fingerprint.h"
#include "common/state/sequence_state.h"
#include "common/state/spilled_state.h"

namespace baton {

struct StateMove {
  // The mover's name for it.
  uint64_t sequence = 0;
  int32_t next_token = 0;
  // To disk: the state goes in; out comes the file alone, or, with an error in `status`, the state alone.
  // Back: the file and a freshly created state go in; out comes the state alone, or an error and nothing.
  absl::optional<SequenceState> state;
  absl::optional<SpilledState> file;
  absl::Status status;
};

struct StateSpillerOptions {
  // Where the files lie.
  std::string directory = "/tmp";
  Fingerprint fingerprint;
};

class StateSpiller {
 public:
  // `done` is called from the spiller's thread after each move.
  StateSpiller(const StateSpillerOptions& options, std::function<void()> done);
  // Drops what waits.
  ~StateSpiller();
  StateSpiller(const StateSpiller&) = delete;

  void Submit(StateMove move);
  // Moves that are over, in order.
  std::vector<StateMove> TakeDone();

 private:
  void Loop();
  void Run(StateMove& move) const;

  const StateSpillerOptions options_;
  const std::function<void()> done_callback_;
  absl::Mutex mutex_;
  std::deque<StateMove> waiting_ ABSL_GUARDED_BY(mutex_);
  std::vector<StateMove> done_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace baton
