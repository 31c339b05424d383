#include "common/compute/blas_core.h"

#include <gtest/gtest.h>

namespace baton {
namespace {

constexpr BlasCpu kOld = {};
constexpr BlasCpu kAvx2 = {.avx2 = true};
constexpr BlasCpu kAvx512 = {.avx2 = true, .avx512 = true};

TEST(BlasCoreTest, CoresThatUseTheCpuStay) {
  for (const char* core : {"SkylakeX", "Cooperlake", "SAPPHIRERAPIDS", "cooperlake"}) {
    EXPECT_EQ(BetterBlasCore(core, kAvx512), absl::nullopt) << core;
  }
  for (const char* core : {"Haswell", "Zen", "Excavator"})
    EXPECT_EQ(BetterBlasCore(core, kAvx2), absl::nullopt) << core;
  EXPECT_EQ(BetterBlasCore("Prescott", kOld), absl::nullopt) << "there is nothing better for such a CPU";
}

TEST(BlasCoreTest, MisdetectedCpusGetTheNearestThatIsKnown) {
  EXPECT_EQ(BetterBlasCore("Prescott", kAvx512), "SkylakeX");
  EXPECT_EQ(BetterBlasCore("Haswell", kAvx512), "SkylakeX");
  EXPECT_EQ(BetterBlasCore("Zen", kAvx512), "SkylakeX");
  EXPECT_EQ(BetterBlasCore("Prescott", kAvx2), "Haswell");
  EXPECT_EQ(BetterBlasCore("Sandybridge", kAvx2), "Haswell");
  EXPECT_EQ(BetterBlasCore("", kAvx2), "Haswell");
}

TEST(BlasCoreTest, ASlowCoreMeansOneRestart) {
  const BlasCoreChoice first = ChooseBlasCore("Prescott", kAvx512, nullptr, nullptr);
  EXPECT_EQ(first.restart_with, "SkylakeX");
  EXPECT_EQ(first.problem, "");
  const BlasCoreChoice second = ChooseBlasCore("SkylakeX", kAvx512, "SkylakeX", "Prescott");
  EXPECT_EQ(second.restart_with, absl::nullopt);
  EXPECT_EQ(second.instead_of, "Prescott");
  EXPECT_EQ(second.problem, "");
}

TEST(BlasCoreTest, ARestartThatDidNotHelpIsTheLast) {
  const BlasCoreChoice choice = ChooseBlasCore("Prescott", kAvx512, "SkylakeX", "Prescott");
  EXPECT_EQ(choice.restart_with, absl::nullopt);
  EXPECT_NE(choice.problem, "");
}

TEST(BlasCoreTest, WhatTheUserSetStays) {
  const BlasCoreChoice choice = ChooseBlasCore("Prescott", kAvx512, "Prescott", nullptr);
  EXPECT_EQ(choice.restart_with, absl::nullopt);
  EXPECT_NE(choice.problem.find("OPENBLAS_CORETYPE=Prescott"), std::string::npos) << choice.problem;
}

TEST(BlasCoreTest, AFastCoreIsLeftAlone) {
  const BlasCoreChoice choice = ChooseBlasCore("Cooperlake", kAvx512, nullptr, nullptr);
  EXPECT_EQ(choice.restart_with, absl::nullopt);
  EXPECT_EQ(choice.problem, "");
}

}  // namespace
}  // namespace baton
