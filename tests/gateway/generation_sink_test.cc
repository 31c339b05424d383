#include "gateway/generation_sink.h"

#include <string>
#include <vector>

#include <gtest/gtest.h>

namespace baton {
namespace {

v1::GenerateEvent DeltaOf(int choice, const std::string& text, const std::vector<int32_t>& ids) {
  v1::GenerateEvent event;
  event.mutable_delta()->set_choice(choice);
  event.mutable_delta()->set_text(text);
  event.mutable_delta()->mutable_token_ids()->Add(ids.begin(), ids.end());
  return event;
}

TEST(MergeDeltasTest, AppendsTextAndIds) {
  v1::GenerateEvent into = DeltaOf(2, "ab", {1, 2});
  v1::GenerateEvent from = DeltaOf(2, "c", {3});
  ASSERT_TRUE(MergeDeltas(&into, &from));
  EXPECT_EQ(into.SerializeAsString(), DeltaOf(2, "abc", {1, 2, 3}).SerializeAsString());
}

TEST(MergeDeltasTest, ATokenWithoutTextAndTextWithoutATokenAreNotLost) {
  v1::GenerateEvent into = DeltaOf(0, "", {1});
  v1::GenerateEvent from = DeltaOf(0, "rest", {});
  ASSERT_TRUE(MergeDeltas(&into, &from));
  EXPECT_EQ(into.SerializeAsString(), DeltaOf(0, "rest", {1}).SerializeAsString());
}

TEST(MergeDeltasTest, LeavesOthersAlone) {
  v1::GenerateEvent finished;
  finished.mutable_finished();
  v1::GenerateEvent with_logprobs = DeltaOf(0, "x", {7});
  with_logprobs.mutable_delta()->add_logprobs()->set_id(7);
  const v1::GenerateEvent delta = DeltaOf(0, "a", {1});
  for (const v1::GenerateEvent& other : {finished, with_logprobs, DeltaOf(1, "b", {2})}) {
    for (const bool first : {true, false}) {
      v1::GenerateEvent into = first ? delta : other;
      v1::GenerateEvent from = first ? other : delta;
      EXPECT_FALSE(MergeDeltas(&into, &from));
      EXPECT_EQ(into.SerializeAsString(), (first ? delta : other).SerializeAsString());
      EXPECT_EQ(from.SerializeAsString(), (first ? other : delta).SerializeAsString());
    }
  }
}

}  // namespace
}  // namespace baton
