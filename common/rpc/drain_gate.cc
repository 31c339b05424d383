#include "common/rpc/drain_gate.h"

#include "common/base/status_macros.h"

namespace baton {

bool DrainGate::Enter() {
  absl::MutexLock lock(&mutex_);
  if (closed_) return false;
  ++inside_;
  return true;
}

void DrainGate::Leave() {
  absl::MutexLock lock(&mutex_);
  BATON_CHECK(inside_ > 0);
  --inside_;
}

void DrainGate::Close() {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
}

bool DrainGate::closed() const {
  absl::MutexLock lock(&mutex_);
  return closed_;
}

int64_t DrainGate::inside() const {
  absl::MutexLock lock(&mutex_);
  return inside_;
}

bool DrainGate::Drain(absl::Duration grace) {
  absl::MutexLock lock(&mutex_);
  closed_ = true;
  const auto empty = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return inside_ == 0; };
  return mutex_.AwaitWithTimeout(absl::Condition(&empty), grace);
}

}  // namespace baton
