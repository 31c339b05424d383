// What a decode worker that shuts down leaves for others to go on with: states of sequences it has stopped, each to be
// read once, by whoever has its key. They keep the worker alive until they have been read, or nobody has come for them.
//
//   LeftStates left(fingerprint, [] { ... state memory was freed ... });
//   worker::v1::SessionKey key = left.Leave(std::move(state));           // the engine
//   std::unique_ptr<SessionFrames> frames = left.Take(key);              // Decode.ReadSession; null: not one of these
//   left.AwaitTaken(absl::Seconds(10));                                  // before the server stops
//
// Thread-safe.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/state/fingerprint.h"
#include "common/state/sequence_state.h"
#include "decode/sessions.h"

namespace baton {

class LeftStates {
 public:
  LeftStates(const Fingerprint& fingerprint, std::function<void()> on_freed)
      : fingerprint_(fingerprint), on_freed_(std::move(on_freed)) {}
  LeftStates(const LeftStates&) = delete;

  worker::v1::SessionKey Leave(SequenceState state);
  // Must not outlive this.
  std::unique_ptr<SessionFrames> Take(const SessionKey& key);
  // Until all have been taken and read, at most so long; what is left then goes. True: nothing was.
  bool AwaitTaken(absl::Duration patience);

 private:
  struct Entry {
    std::string identity;
    SequenceState state;
  };

  const Fingerprint fingerprint_;
  const std::function<void()> on_freed_;
  absl::Mutex mutex_;
  std::map<std::string, Entry> states_ ABSL_GUARDED_BY(mutex_);  // by id
  // Being read.
  int readers_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace baton
