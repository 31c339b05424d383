#include "common/rpc/shutdown_signal.h"

#include <pthread.h>
#include <semaphore.h>
#include <signal.h>

#include <atomic>
#include <cerrno>

#include "common/base/status_macros.h"

namespace baton {
namespace {

// Read and written by the handler. The semaphore is posted once for each signal.
std::atomic<int> arrived_signal = 0;
static_assert(std::atomic<int>::is_always_lock_free);
sem_t arrivals;

void OnSignal(int signal) {
  const int error = errno;
  arrived_signal.store(signal, std::memory_order_release);
  sem_post(&arrivals);
  errno = error;
}

sigset_t ShutdownSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

void BlockShutdownSignals() {
  BATON_CHECK(sem_init(&arrivals, /*pshared=*/0, 0) == 0);
  const sigset_t set = ShutdownSignals();
  BATON_CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  // Blocking alone would leave the signal, and with its default action the process's life, to threads that libraries
  // have started before main, as OpenBLAS does.
  struct sigaction action = {};
  action.sa_handler = OnSignal;
  action.sa_mask = set;
  action.sa_flags = SA_RESTART;
  BATON_CHECK(sigaction(SIGTERM, &action, nullptr) == 0 && sigaction(SIGINT, &action, nullptr) == 0);
  signal(SIGPIPE, SIG_IGN);
}

bool ShutdownSignalPending() {
  if (arrived_signal.load(std::memory_order_acquire) != 0) return true;
  sigset_t pending;
  sigemptyset(&pending);
  sigpending(&pending);
  return sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1;
}

int WaitForShutdownSignal() {
  const sigset_t set = ShutdownSignals();
  // One that waits for a thread that takes it is handled here.
  BATON_CHECK(pthread_sigmask(SIG_UNBLOCK, &set, nullptr) == 0);
  while (sem_wait(&arrivals) != 0) BATON_CHECK(errno == EINTR);
  // A second signal takes its default action: the operator has lost patience.
  signal(SIGTERM, SIG_DFL);
  signal(SIGINT, SIG_DFL);
  return arrived_signal.load(std::memory_order_acquire);
}

}  // namespace baton
