// How other threads wake the engine thread: they ring, it waits. A ring while it is busy makes its next wait return at
// once, so nothing is missed. Shared by pointer, because a gRPC call may ring after the engine is gone.
#pragma once

#include "absl/synchronization/mutex.h"

namespace baton {

class Doorbell {
 public:
  void Ring() {
    absl::MutexLock lock(&mutex_);
    rung_ = true;
  }

  // Returns when it has been rung since the last Wait.
  void Wait() {
    absl::MutexLock lock(&mutex_);
    mutex_.Await(absl::Condition(&rung_));
    rung_ = false;
  }

 private:
  absl::Mutex mutex_;
  bool rung_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace baton
