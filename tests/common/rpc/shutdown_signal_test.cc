#include "common/rpc/shutdown_signal.h"

#include <pthread.h>
#include <signal.h>
#include <unistd.h>

#include <cstdlib>
#include <future>
#include <thread>

#include "gtest/gtest.h"

namespace baton {
namespace {

// Each test in a process of its own, as signals are the whole process's.
class ShutdownSignalDeathTest : public testing::Test {
 protected:
  ShutdownSignalDeathTest() { testing::FLAGS_gtest_death_test_style = "threadsafe"; }
};

TEST_F(ShutdownSignalDeathTest, OneThatCameBeforeAnybodyWaitedIsNotLost) {
  const auto wait = [] {
    BlockShutdownSignals();
    if (ShutdownSignalPending()) std::_Exit(1);
    kill(getpid(), SIGTERM);
    // A thread of OpenBLAS may have it and not have run yet.
    alarm(60);
    while (!ShutdownSignalPending()) std::this_thread::yield();
    std::_Exit(WaitForShutdownSignal() == SIGTERM ? 0 : 3);
  };
  EXPECT_EXIT(wait(), testing::ExitedWithCode(0), "");
}

TEST_F(ShutdownSignalDeathTest, AThreadFromBeforeMainDoesNotEndTheProcess) {
  const auto wait = [] {
    std::promise<void> taken;
    std::promise<void> over;
    std::thread early([&] {
      taken.get_future().wait();
      pthread_kill(pthread_self(), SIGTERM);  // as the kernel may choose
      over.set_value();
      pause();
    });
    BlockShutdownSignals();
    taken.set_value();
    over.get_future().wait();
    if (!ShutdownSignalPending()) std::_Exit(2);
    std::_Exit(WaitForShutdownSignal() == SIGTERM ? 0 : 3);
  };
  EXPECT_EXIT(wait(), testing::ExitedWithCode(0), "");
}

TEST_F(ShutdownSignalDeathTest, TheSecondEndsTheProcess) {
  const auto wait = [] {
    BlockShutdownSignals();
    kill(getpid(), SIGINT);
    if (WaitForShutdownSignal() != SIGINT) std::_Exit(2);
    kill(getpid(), SIGTERM);
    std::_Exit(3);
  };
  EXPECT_EXIT(wait(), testing::KilledBySignal(SIGTERM), "");
}

}  // namespace
}  // namespace baton
