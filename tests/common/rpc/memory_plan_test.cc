#include "common/rpc/memory_plan.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace baton {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr int64_t kGiB = int64_t{1} << 30;

TEST(MemoryPlanTest, SaysWhatGoesWhere) {
  const MemoryPlan plan = {3 * kGiB, true, 6 * kGiB, kGiB / 2, {24 * kGiB, "machine"}};
  EXPECT_EQ(plan.ToString(),
            "weights 3.0 GiB (mapped, shared) + state 6.0 GiB + workspace 512.0 MiB = 9.5 GiB of this machine's 24.0 "
            "GiB");
  EXPECT_TRUE(plan.Check().ok());
  EXPECT_TRUE((MemoryPlan{3 * kGiB, true, 4 * kGiB, kGiB, {8 * kGiB, "machine"}}.Check().ok())) << "just fits";
}

TEST(MemoryPlanTest, TooMuchStateNamesTheFlag) {
  const absl::Status status = MemoryPlan{3 * kGiB, false, 6 * kGiB, kGiB, {8 * kGiB, "control group"}}.Check();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), AllOf(HasSubstr("control group"), HasSubstr("--memory 2048MiB")));
}

TEST(MemoryPlanTest, TooLargeWeightsNameTheOther) {
  const absl::Status status = MemoryPlan{9 * kGiB, false, kGiB, kGiB, {8 * kGiB, "machine"}}.Check();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--weights"));
}

}  // namespace
}  // namespace baton
