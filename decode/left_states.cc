#include "decode/left_states.h"

#include <utility>

#include "absl/types/optional.h"
#include "common/base/ids.h"
#include "common/rpc/worker_request.h"
#include "common/state/state_frames.h"

namespace baton {

class LeftStates::Frames final : public SessionFrames {
 public:
  Frames(SequenceState state, LeftStates* owner)
      : owner_(owner), state_(std::make_unique<const SequenceState>(std::move(state))) {
    frames_.emplace(*state_, owner->fingerprint_);
  }
  ~Frames() override {
    frames_.reset();
    state_.reset();
    owner_->on_freed_();
    absl::MutexLock lock(&owner_->mutex_);
    --owner_->readers_;
  }
  absl::Status Next(std::string* frames) override {
    frames_->Next(kStateFrameTargetBytes, frames);
    return absl::OkStatus();
  }

 private:
  LeftStates* const owner_;
  std::unique_ptr<const SequenceState> state_;
  absl::optional<StateFrames> frames_;
};

worker::v1::SessionKey LeftStates::Leave(SequenceState state) {
  worker::v1::SessionKey key;
  key.set_id(RandomBytes(kSessionIdBytes));
  key.set_identity(RandomBytes(kIdentityBytes));
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
  return std::make_unique<Frames>(std::move(state), this);
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
