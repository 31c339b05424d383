// Lets ThreadSanitizer see abseil's locks. Linked into every test when BATON_SANITIZE is thread.
//
// Debian's libabsl is built without instrumentation, and absl::Mutex is made of atomics and futexes rather than pthread
// mutexes, so ThreadSanitizer would take everything that such a lock guards (in our code and in gRPC's) for a race. The
// definitions here take the place of the library's, call them, and say what they order: whoever acquires a lock sees
// all that was done before it was released.
#include <dlfcn.h>
#include <sanitizer/tsan_interface.h>

#include <cstdlib>

#include "absl/synchronization/mutex.h"
#include "absl/synchronization/notification.h"
#include "absl/time/time.h"

extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
}

// The library's own function of that (mangled) name.
#define LIBRARY_FUNCTION(type, symbol)                                          \
  static const auto library = reinterpret_cast<type>(dlsym(RTLD_NEXT, symbol)); \
  if (library == nullptr) abort()

namespace absl {
ABSL_NAMESPACE_BEGIN

using LockFunction = void (*)(Mutex*);
using TryLockFunction = bool (*)(Mutex*);
using ConditionFunction = void (*)(Mutex*, const Condition&);
using TimeoutFunction = bool (*)(Mutex*, const Condition&, Duration);
using DeadlineFunction = bool (*)(Mutex*, const Condition&, Time);

void Mutex::Lock() {
  LIBRARY_FUNCTION(LockFunction, "_ZN4absl7debian35Mutex4LockEv");
  library(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  LIBRARY_FUNCTION(LockFunction, "_ZN4absl7debian35Mutex6UnlockEv");
  __tsan_release(this);
  library(this);
}

bool Mutex::TryLock() {
  LIBRARY_FUNCTION(TryLockFunction, "_ZN4absl7debian35Mutex7TryLockEv");
  const bool locked = library(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void Mutex::ReaderLock() {
  LIBRARY_FUNCTION(LockFunction, "_ZN4absl7debian35Mutex10ReaderLockEv");
  library(this);
  __tsan_acquire(this);
}

void Mutex::ReaderUnlock() {
  LIBRARY_FUNCTION(LockFunction, "_ZN4absl7debian35Mutex12ReaderUnlockEv");
  __tsan_release(this);
  library(this);
}

void Mutex::LockWhen(const Condition& condition) {
  LIBRARY_FUNCTION(ConditionFunction, "_ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE");
  library(this, condition);
  __tsan_acquire(this);
}

bool Mutex::LockWhenWithTimeout(const Condition& condition, Duration timeout) {
  LIBRARY_FUNCTION(TimeoutFunction, "_ZN4absl7debian35Mutex19LockWhenWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  const bool held = library(this, condition, timeout);
  __tsan_acquire(this);
  return held;
}

bool Mutex::LockWhenWithDeadline(const Condition& condition, Time deadline) {
  LIBRARY_FUNCTION(DeadlineFunction, "_ZN4absl7debian35Mutex20LockWhenWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  const bool held = library(this, condition, deadline);
  __tsan_acquire(this);
  return held;
}

void Mutex::Await(const Condition& condition) {
  LIBRARY_FUNCTION(ConditionFunction, "_ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE");
  __tsan_release(this);
  library(this, condition);
  __tsan_acquire(this);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  LIBRARY_FUNCTION(TimeoutFunction, "_ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE");
  __tsan_release(this);
  const bool held = library(this, condition, timeout);
  __tsan_acquire(this);
  return held;
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  LIBRARY_FUNCTION(DeadlineFunction, "_ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE");
  __tsan_release(this);
  const bool held = library(this, condition, deadline);
  __tsan_acquire(this);
  return held;
}

// The thread that releases a lock evaluates the conditions of those who wait for it, still inside Unlock but after the
// point at which Unlock above could say that it is done. It does hold the lock.
bool Condition::Eval() const {
  using EvalFunction = bool (*)(const Condition*);
  LIBRARY_FUNCTION(EvalFunction, "_ZNK4absl7debian39Condition4EvalEv");
  AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
  const bool holds = library(this);
  AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  return holds;
}

void CondVar::Wait(Mutex* mutex) {
  using WaitFunction = void (*)(CondVar*, Mutex*);
  LIBRARY_FUNCTION(WaitFunction, "_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE");
  __tsan_release(mutex);
  library(this, mutex);
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  using WaitFunction = bool (*)(CondVar*, Mutex*, Duration);
  LIBRARY_FUNCTION(WaitFunction, "_ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE");
  __tsan_release(mutex);
  const bool timed_out = library(this, mutex, timeout);
  __tsan_acquire(mutex);
  return timed_out;
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  using WaitFunction = bool (*)(CondVar*, Mutex*, Time);
  LIBRARY_FUNCTION(WaitFunction, "_ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE");
  __tsan_release(mutex);
  const bool timed_out = library(this, mutex, deadline);
  __tsan_acquire(mutex);
  return timed_out;
}

void Notification::Notify() {
  using NotifyFunction = void (*)(Notification*);
  LIBRARY_FUNCTION(NotifyFunction, "_ZN4absl7debian312Notification6NotifyEv");
  __tsan_release(this);
  library(this);
}

void Notification::WaitForNotification() const {
  using WaitFunction = void (*)(const Notification*);
  LIBRARY_FUNCTION(WaitFunction, "_ZNK4absl7debian312Notification19WaitForNotificationEv");
  library(this);
  __tsan_acquire(const_cast<Notification*>(this));
}

bool Notification::WaitForNotificationWithTimeout(Duration timeout) const {
  using WaitFunction = bool (*)(const Notification*, Duration);
  LIBRARY_FUNCTION(WaitFunction, "_ZNK4absl7debian312Notification30WaitForNotificationWithTimeoutENS0_8DurationE");
  const bool notified = library(this, timeout);
  if (notified) __tsan_acquire(const_cast<Notification*>(this));
  return notified;
}

ABSL_NAMESPACE_END
}  // namespace absl
