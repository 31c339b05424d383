#include "common/rpc/shutdown_signal.h"

#include <pthread.h>
#include <signal.h>

#include "common/base/status_macros.h"

namespace baton {
namespace {

sigset_t ShutdownSignals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  return set;
}

}  // namespace

void BlockShutdownSignals() {
  const sigset_t set = ShutdownSignals();
  BATON_CHECK(pthread_sigmask(SIG_BLOCK, &set, nullptr) == 0);
  signal(SIGPIPE, SIG_IGN);
}

bool ShutdownSignalPending() {
  sigset_t pending;
  sigemptyset(&pending);
  sigpending(&pending);
  return sigismember(&pending, SIGTERM) == 1 || sigismember(&pending, SIGINT) == 1;
}

int WaitForShutdownSignal() {
  const sigset_t set = ShutdownSignals();
  int received = 0;
  BATON_CHECK(sigwait(&set, &received) == 0);
  // A second signal takes its default action, in this thread: the operator has lost patience.
  pthread_sigmask(SIG_UNBLOCK, &set, nullptr);
  return received;
}

}  // namespace baton
