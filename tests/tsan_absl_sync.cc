// What ThreadSanitizer cannot see by itself: Debian's abseil is not instrumented, so neither our own absl::Mutex nor
// the locks inside gRPC (which are absl::Mutex too) order anything in its eyes, and every hand-over between threads
// looks like a race. This library stands in front of libabsl_synchronization.so, forwards each call and tells
// ThreadSanitizer what it orders. Linked into every program of the tsan preset, and into nothing else.
#include <dlfcn.h>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

extern "C" void __tsan_acquire(void* address);
extern "C" void __tsan_release(void* address);

namespace {

// The abseil function of the same mangled name behind this one.
template <typename Function>
Function* Next(const char* symbol) {
  return reinterpret_cast<Function*>(dlsym(RTLD_NEXT, symbol));
}

}  // namespace

// Member functions are called through plain pointers with `this` first, as the x86-64 and AArch64 ABIs pass it.
#define BATON_FORWARD(result, symbol, ...) static auto* const next = Next<result(__VA_ARGS__)>(symbol)

namespace absl {
ABSL_NAMESPACE_BEGIN

void Mutex::Lock() {
  BATON_FORWARD(void, "_ZN4absl7debian35Mutex4LockEv", Mutex*);
  next(this);
  __tsan_acquire(this);
}

void Mutex::Unlock() {
  BATON_FORWARD(void, "_ZN4absl7debian35Mutex6UnlockEv", Mutex*);
  __tsan_release(this);
  next(this);
}

bool Mutex::TryLock() {
  BATON_FORWARD(bool, "_ZN4absl7debian35Mutex7TryLockEv", Mutex*);
  const bool locked = next(this);
  if (locked) __tsan_acquire(this);
  return locked;
}

void Mutex::ReaderLock() {
  BATON_FORWARD(void, "_ZN4absl7debian35Mutex10ReaderLockEv", Mutex*);
  next(this);
  __tsan_acquire(this);
}

void Mutex::ReaderUnlock() {
  BATON_FORWARD(void, "_ZN4absl7debian35Mutex12ReaderUnlockEv", Mutex*);
  __tsan_release(this);
  next(this);
}

void Mutex::Await(const Condition& condition) {
  BATON_FORWARD(void, "_ZN4absl7debian35Mutex5AwaitERKNS0_9ConditionE", Mutex*, const Condition&);
  __tsan_release(this);
  next(this, condition);
  __tsan_acquire(this);
}

bool Mutex::AwaitWithTimeout(const Condition& condition, Duration timeout) {
  BATON_FORWARD(bool, "_ZN4absl7debian35Mutex16AwaitWithTimeoutERKNS0_9ConditionENS0_8DurationE", Mutex*,
                const Condition&, Duration);
  __tsan_release(this);
  const bool held = next(this, condition, timeout);
  __tsan_acquire(this);
  return held;
}

bool Mutex::AwaitWithDeadline(const Condition& condition, Time deadline) {
  BATON_FORWARD(bool, "_ZN4absl7debian35Mutex17AwaitWithDeadlineERKNS0_9ConditionENS0_4TimeE", Mutex*, const Condition&,
                Time);
  __tsan_release(this);
  const bool held = next(this, condition, deadline);
  __tsan_acquire(this);
  return held;
}

void Mutex::LockWhen(const Condition& condition) {
  BATON_FORWARD(void, "_ZN4absl7debian35Mutex8LockWhenERKNS0_9ConditionE", Mutex*, const Condition&);
  next(this, condition);
  __tsan_acquire(this);
}

void CondVar::Wait(Mutex* mutex) {
  BATON_FORWARD(void, "_ZN4absl7debian37CondVar4WaitEPNS0_5MutexE", CondVar*, Mutex*);
  __tsan_release(mutex);
  next(this, mutex);
  __tsan_acquire(mutex);
}

bool CondVar::WaitWithTimeout(Mutex* mutex, Duration timeout) {
  BATON_FORWARD(bool, "_ZN4absl7debian37CondVar15WaitWithTimeoutEPNS0_5MutexENS0_8DurationE", CondVar*, Mutex*,
                Duration);
  __tsan_release(mutex);
  const bool timed_out = next(this, mutex, timeout);
  __tsan_acquire(mutex);
  return timed_out;
}

bool CondVar::WaitWithDeadline(Mutex* mutex, Time deadline) {
  BATON_FORWARD(bool, "_ZN4absl7debian37CondVar16WaitWithDeadlineEPNS0_5MutexENS0_4TimeE", CondVar*, Mutex*, Time);
  __tsan_release(mutex);
  const bool timed_out = next(this, mutex, deadline);
  __tsan_acquire(mutex);
  return timed_out;
}

ABSL_NAMESPACE_END
}  // namespace absl
