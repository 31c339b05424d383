#include "common/rpc/drain_gate.h"

#include <thread>

#include "gtest/gtest.h"

namespace baton {
namespace {

TEST(DrainGateTest, RefusesNewAndWaitsForOld) {
  DrainGate gate;
  ASSERT_TRUE(gate.Enter());
  EXPECT_FALSE(gate.Drain(absl::Milliseconds(1)));
  EXPECT_FALSE(gate.Enter());
  EXPECT_EQ(gate.inside(), 1);
  std::thread leaver([&] { gate.Leave(); });
  EXPECT_TRUE(gate.Drain(absl::InfiniteDuration()));
  leaver.join();
  EXPECT_EQ(gate.inside(), 0);
}

TEST(DrainGateDeathTest, LeavingWithoutEnteringIsABug) {
  DrainGate gate;
  EXPECT_DEATH(gate.Leave(), "check failed");
}

}  // namespace
}  // namespace baton
