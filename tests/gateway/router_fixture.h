// A router on its own, and what requests demand of it.
#pragma once

#include <cstdint>
#include <string>

#include <gtest/gtest.h>

#include "gateway/router.h"
#include "tests/gateway/fleet_snapshots.h"

namespace baton {

inline Demand For(int64_t prompt_tokens, int64_t state_tokens) {
  Demand demand;
  demand.fingerprint = std::string(32, 'f');
  demand.model = "tiny";
  demand.prompt_tokens = prompt_tokens;
  demand.state_tokens = state_tokens;
  return demand;
}

class RouterTest : public ::testing::Test {
 protected:
  void SetUp() override {
    router_.SetCapacityListener([this] { ++capacity_changes_; });
  }
  int capacity_changes_ = 0;
  Router router_;
};

}  // namespace baton
