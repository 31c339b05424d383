// Draining as one small thing: enter before working, leave after; once closed nobody enters, and Drain waits for the
// rest.
//
//   if (!gate.Enter()) return UNAVAILABLE;   ...   gate.Leave();
#pragma once

#include <cstdint>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace baton {

class DrainGate {
 public:
  bool Enter();
  void Leave();
  void Close();
  bool closed() const;
  int64_t inside() const;
  // Closes; true when everybody left within `grace`.
  bool Drain(absl::Duration grace);

 private:
  mutable absl::Mutex mutex_;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t inside_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace baton
