#include "common/compute/cpu_isa.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <string>

namespace baton {
namespace {

using testing::HasSubstr;

TEST(CpuIsaTest, EveryCpuRunsThePortableKernels) {
  const std::vector<Isa> isas = SupportedIsas();
  EXPECT_EQ(isas.front(), Isa::kPortable);
  EXPECT_TRUE(std::is_sorted(isas.begin(), isas.end()));
  EXPECT_EQ(*ParseIsa("portable"), Isa::kPortable);
}

TEST(CpuIsaTest, AutoIsTheBest) { EXPECT_EQ(*ParseIsa("auto"), SupportedIsas().back()); }

TEST(CpuIsaTest, NamesAreParsedOrRefusedForWhatTheCpuLacks) {
  const std::vector<Isa> isas = SupportedIsas();
  for (const Isa isa : {Isa::kAvx2, Isa::kAvx512, Isa::kAmx}) {
    const absl::StatusOr<Isa> parsed = ParseIsa(IsaName(isa));
    if (std::find(isas.begin(), isas.end(), isa) != isas.end()) {
      ASSERT_TRUE(parsed.ok());
      EXPECT_GE(*parsed, isa);
    } else {
      EXPECT_EQ(parsed.status().code(), absl::StatusCode::kFailedPrecondition);
      EXPECT_THAT(std::string(parsed.status().message()), HasSubstr("auto"));
    }
  }
}

TEST(CpuIsaTest, OtherWordsAreRefused) {
  for (const char* word : {"", "AVX2", "avx513", "sse"}) {
    EXPECT_EQ(ParseIsa(word).status().code(), absl::StatusCode::kInvalidArgument) << word;
  }
}

TEST(CpuIsaTest, TheChosenOneIsUsed) {
  for (const Isa isa : SupportedIsas()) {
    SetIsa(isa);
    EXPECT_EQ(CurrentIsa(), isa);
  }
}

}  // namespace
}  // namespace baton
