#include "common/base/cpu.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace baton {
namespace {

using testing::ElementsAre;

TEST(CpuTest, ParsesLists) {
  EXPECT_THAT(*ParseCpuList("0"), ElementsAre(0));
  EXPECT_THAT(*ParseCpuList("0-3,8"), ElementsAre(0, 1, 2, 3, 8));
  EXPECT_THAT(*ParseCpuList("3,1,1-2"), ElementsAre(1, 2, 3));
}

TEST(CpuTest, RefusesWhatIsNotAList) {
  for (const char* text : {"", "a", "1-", "-1", "3-1", "0,,1", "99999999"}) {
    EXPECT_EQ(ParseCpuList(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
}

TEST(CpuTest, RefusesCpusThatDoNotExist) {
  EXPECT_GE(UsableCpus(), 1);
  EXPECT_EQ(PinProcess({100000}).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(PinProcess({}).code(), absl::StatusCode::kInvalidArgument);
}

}  // namespace
}  // namespace baton
