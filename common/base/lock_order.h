// Debian builds abseil with its checks for lock-order deadlocks on. They keep a graph of all locks behind one lock of
// the process and cost a busy server several percent. Programs leave them to the tests, which have them on.
#pragma once

#include "absl/synchronization/mutex.h"

namespace baton {

// First thing in main.
inline void LeaveLockOrderToTests() { absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore); }

}  // namespace baton
