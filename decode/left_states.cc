#include "decode/left_states.h"

#include <utility>

#include "common/base/ids.h"
#include "common/rpc/worker_request.h"

namespace baton {

worker::v1::SessionKey LeftStates::Leave(SequenceState state) {
  worker::v1::SessionKey key = NewSessionKey(RandomBytes(kIdentityBytes));
  absl::MutexLock lock(&mutex_);
  states_.emplace(key.id(), Entry{key.identity(), std::move(state)});
  return key;
}

std::unique_ptr<SessionFrames> LeftStates::Take(const SessionKey& key) {
  absl::MutexLock lock(&mutex_);
  const auto found = states_.find(key.id);
  if (found == states_.end() || found->second.identity != key.identity) return nullptr;
  SequenceState state = std::move(found->second.state);
  states_.erase(found);
  ++readers_;
  return FramesOf(std::move(state), fingerprint_, [this] {
    on_freed_();
    absl::MutexLock lock(&mutex_);
    --readers_;
  });
}

bool LeftStates::AwaitTaken(absl::Duration patience) {
  const auto taken = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return states_.empty() && readers_ == 0; };
  absl::MutexLock lock(&mutex_);
  const bool all = mutex_.AwaitWithTimeout(absl::Condition(&taken), patience);
  states_.clear();
  on_freed_();
  return all;
}

}  // namespace baton
