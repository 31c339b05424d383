#include "gateway/api_keys.h"

#include <string>
#include <vector>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "common/base/sha256.h"

namespace baton {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::SizeIs;

std::string Line(const std::string& name, const std::string& key, const std::string& limits = "") {
  return absl::StrCat(name, " ", absl::BytesToHexString(Sha256(key)), " ", limits, "\n");
}

std::string ErrorOf(const std::string& text) {
  const auto keys = ParseApiKeys(text);
  return keys.ok() ? "(accepted)" : std::string(keys.status().message());
}

TEST(ApiKeys, ReadsAFile) {
  const auto keys = ParseApiKeys(absl::StrCat(
      "# who may call\r\n\n",
      Line("alice", "a", "concurrent=8 requests_per_minute=60 tokens_per_minute=1000 # until May"), "   \t ",
      Line("bob.2_x-Y", "b", "models=tiny,big,,big max_priority=-5 expires=2027-01-31 operator=yes"),
      Line("carol", "c", "expires=2027-01-31T12:30:00Z operator=no")));
  ASSERT_TRUE(keys.ok()) << keys.status();
  ASSERT_THAT(*keys, SizeIs(3));
  EXPECT_EQ((*keys)[0].client, "alice");
  EXPECT_EQ((*keys)[0].sha256, Sha256("a"));
  EXPECT_EQ((*keys)[0].limits.concurrent, 8);
  EXPECT_EQ((*keys)[0].limits.requests_per_minute, 60);
  EXPECT_EQ((*keys)[0].limits.tokens_per_minute, 1000);
  EXPECT_EQ((*keys)[0].expires, absl::InfiniteFuture());
  EXPECT_TRUE((*keys)[0].limits.AllowsModel("anything"));
  EXPECT_FALSE((*keys)[0].limits.is_operator);
  EXPECT_THAT((*keys)[1].limits.models, ElementsAre("big", "tiny"));
  EXPECT_FALSE((*keys)[1].limits.AllowsModel("other"));
  EXPECT_EQ((*keys)[1].limits.max_priority, -5);
  EXPECT_TRUE((*keys)[1].limits.is_operator);
  EXPECT_EQ((*keys)[1].expires, absl::FromUnixSeconds(1801353600));
  EXPECT_EQ((*keys)[2].expires, absl::FromUnixSeconds(1801353600) + absl::Hours(12) + absl::Minutes(30));
}

TEST(ApiKeys, SeveralKeysOfOneClientShareItsLimits) {
  EXPECT_TRUE(ParseApiKeys(Line("a", "1", "concurrent=2 expires=2027-01-01") + Line("a", "2", "concurrent=2")).ok());
  EXPECT_THAT(ErrorOf(Line("a", "1", "concurrent=2") + Line("a", "2", "concurrent=3")),
              HasSubstr("line 2: other limits than in line 1"));
}

TEST(ApiKeys, SaysWhatIsWrongAndWhere) {
  EXPECT_THAT(ErrorOf(""), HasSubstr("no key in it"));
  EXPECT_THAT(ErrorOf("# nothing\n\n"), HasSubstr("no key in it"));
  EXPECT_THAT(ErrorOf("\nalice\n"), HasSubstr("line 2: after the name comes the SHA-256"));
  EXPECT_THAT(ErrorOf("alice abcd\n"), HasSubstr("64 hex digits"));
  EXPECT_THAT(ErrorOf("al!ice 00\n"), HasSubstr("line 1: the name must be"));
  EXPECT_THAT(ErrorOf(Line(std::string(65, 'a'), "k")), HasSubstr("the name must be"));
  EXPECT_THAT(ErrorOf(Line("a", "k") + Line("b", "k")), HasSubstr("line 2: the same key as in line 1"));
  EXPECT_THAT(ErrorOf(Line("a", "k", "concurent=1")), HasSubstr("there is no such limit"));
  EXPECT_THAT(ErrorOf(Line("a", "k", "concurrent=1 concurrent=1")), HasSubstr("given twice"));
  for (const char* const limit :
       {"concurrent=0", "concurrent=-1", "concurrent=", "concurrent", "requests_per_minute=1.5",
        "tokens_per_minute=99999999999999999999", "max_priority=101", "max_priority=x", "operator=maybe",
        "models=", "models=,", "expires=soon", "expires=2027-13-01"}) {
    EXPECT_THAT(ErrorOf(Line("a", "k", limit)), HasSubstr(absl::StrCat("line 1: \"", limit, "\": "))) << limit;
  }
}

// Somebody may put the key where the hash belongs, or first in its line.
TEST(ApiKeys, ErrorsNeverRepeatWhatMayBeAKey) {
  EXPECT_THAT(ErrorOf("alice baton_secret"), Not(HasSubstr("secret")));
  EXPECT_THAT(ErrorOf("baton_secret= alice"), Not(HasSubstr("secret")));
  EXPECT_THAT(ErrorOf("baton_secret alice"), Not(HasSubstr("secret")));
  EXPECT_THAT(ErrorOf(Line("alice", "a", "baton_seCret42")), Not(HasSubstr("seCret")));
  EXPECT_THAT(ErrorOf("baton_secret"), Not(HasSubstr("secret")));
}

TEST(ApiKeys, MakesKeysThatItsOwnLinesLetIn) {
  const auto made = MakeApiKey("alice", {"concurrent=3", "models=tiny"});
  ASSERT_TRUE(made.ok()) << made.status();
  EXPECT_THAT(made->key, ::testing::MatchesRegex("baton_[A-Za-z0-9_-]{43}"));
  EXPECT_THAT(made->line, Not(HasSubstr(made->key)));
  const auto keys = ParseApiKeys(made->line);
  ASSERT_TRUE(keys.ok()) << keys.status();
  EXPECT_EQ(keys->front().sha256, Sha256(made->key));
  EXPECT_EQ(keys->front().limits.concurrent, 3);
  EXPECT_NE(MakeApiKey("alice", {})->key, made->key);
}

TEST(ApiKeys, MakesNoKeyForWhatTheFileCannotHold) {
  for (const char* const name : {"", "two words", "a#b", "a\nb"}) EXPECT_FALSE(MakeApiKey(name, {}).ok()) << name;
  for (const char* const limit : {"concurrent=x", "x", "models=a b", "models=a\nroot", "models=#"}) {
    EXPECT_FALSE(MakeApiKey("alice", {limit}).ok()) << limit;
  }
}

}  // namespace
}  // namespace baton
