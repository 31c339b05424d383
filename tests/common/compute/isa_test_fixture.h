// Runs a test once per instruction set that this CPU has.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "common/compute/cpu_isa.h"

namespace baton {

class IsaTest : public testing::TestWithParam<Isa> {
 protected:
  IsaTest() { SetIsaForTesting(GetParam()); }
  ~IsaTest() override { SetIsaForTesting(before_); }

 private:
  const Isa before_ = CurrentIsa();
};

#define BATON_INSTANTIATE_ISA_TEST(suite)                               \
  INSTANTIATE_TEST_SUITE_P(, suite, testing::ValuesIn(SupportedIsas()), \
                           [](const testing::TestParamInfo<Isa>& info) { return std::string(IsaName(info.param)); })

}  // namespace baton
