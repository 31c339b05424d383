#include "gateway/cli/prompt.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace baton::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(ParseTokenIds, TakesEveryUsualNotation) {
  EXPECT_THAT(*ParseTokenIds("2,3,4"), ElementsAre(2, 3, 4));
  EXPECT_THAT(*ParseTokenIds(" 2 3\n4 "), ElementsAre(2, 3, 4));
  EXPECT_THAT(*ParseTokenIds("[2, 3, 4]"), ElementsAre(2, 3, 4));
  EXPECT_THAT(*ParseTokenIds("-1"), ElementsAre(-1));
  EXPECT_THAT(*ParseTokenIds("[]"), IsEmpty());
}

TEST(ParseTokenIds, RefusesTheRest) {
  for (const char* text : {"2,x", "2.5", "[2,3", "99999999999", "0x10", "[[2]]"}) {
    EXPECT_EQ(ParseTokenIds(text).status().code(), absl::StatusCode::kInvalidArgument) << text;
  }
  EXPECT_THAT(std::string(ParseTokenIds("2,x").status().message()), HasSubstr("\"x\""));
}

TEST(ParseMessages, KeepsRolesAndTexts) {
  const auto chat = ParseMessages(
      R"([{"role":"user","content":"hi"},{"role":"model","content":"hello \u20ac"},{"role":"user","content":""}])",
      "f");
  ASSERT_TRUE(chat.ok()) << chat.status();
  ASSERT_EQ(chat->messages_size(), 3);
  EXPECT_EQ(chat->messages(1).role(), "model");
  EXPECT_EQ(chat->messages(1).content(), "hello \xE2\x82\xAC");
}

TEST(ParseMessages, RefusesOtherShapes) {
  for (const char* json : {"", "{}", "[1]", R"([{"role":"user"}])", R"([{"content":"x"}])",
                           R"([{"role":1,"content":"x"}])", R"([{"role":"user","content":["x"]}])", "[", "\xFF"}) {
    const absl::Status status = ParseMessages(json, "chat.json").status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << json;
    EXPECT_THAT(std::string(status.message()), HasSubstr("chat.json is not")) << json;
  }
}

}  // namespace
}  // namespace baton::cli
