#include "common/observe/trace_context.h"

#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "gtest/gtest.h"

namespace baton {
namespace {

constexpr char kTrace[] = "4bf92f3577b34da6a3ce929d0e0e4736";
constexpr char kSpan[] = "00f067aa0ba902b7";

TEST(TraceparentTest, ReadsWhatTheStandardShows) {
  const auto sampled = ParseTraceparent(absl::StrCat("00-", kTrace, "-", kSpan, "-01"));
  ASSERT_TRUE(sampled.has_value());
  EXPECT_EQ(ToHex(sampled->trace_id), kTrace);
  EXPECT_EQ(ToHex(sampled->span_id), kSpan);
  EXPECT_TRUE(sampled->sampled);
  const auto unsampled = ParseTraceparent(absl::StrCat("00-", kTrace, "-", kSpan, "-00"));
  ASSERT_TRUE(unsampled.has_value());
  EXPECT_FALSE(unsampled->sampled);
  EXPECT_EQ(FormatTraceparent(*sampled), absl::StrCat("00-", kTrace, "-", kSpan, "-01"));
  EXPECT_EQ(FormatTraceparent(*unsampled), absl::StrCat("00-", kTrace, "-", kSpan, "-00"));
}

struct Case {
  const char* what;
  std::string header;
  bool valid;
};

class TraceparentCases : public testing::TestWithParam<Case> {};

TEST_P(TraceparentCases, IsAContextOrNone) {
  EXPECT_EQ(ParseTraceparent(GetParam().header).has_value(), GetParam().valid) << GetParam().header;
}

std::string Header(const std::string& version, const std::string& trace, const std::string& span,
                   const std::string& rest) {
  return absl::StrCat(version, "-", trace, "-", span, "-", rest);
}

INSTANTIATE_TEST_SUITE_P(
    All, TraceparentCases,
    testing::Values(Case{"other flags", Header("00", kTrace, kSpan, "09"), true},
                    Case{"all flags", Header("00", kTrace, kSpan, "ff"), true}, Case{"empty", "", false},
                    Case{"short", Header("00", kTrace, kSpan, "0"), false},
                    Case{"upper case trace", Header("00", "4BF92F3577B34DA6A3CE929D0E0E4736", kSpan, "01"), false},
                    Case{"upper case span", Header("00", kTrace, "00F067AA0BA902B7", "01"), false},
                    Case{"upper case flags", Header("00", kTrace, kSpan, "0A"), false},
                    Case{"no digits in flags", Header("00", kTrace, kSpan, "0x"), false},
                    Case{"no digit in version", Header("0g", kTrace, kSpan, "01"), false},
                    Case{"version ff", Header("ff", kTrace, kSpan, "01"), false},
                    Case{"version ff and more", Header("ff", kTrace, kSpan, "01-what"), false},
                    Case{"zero trace", Header("00", std::string(32, '0'), kSpan, "01"), false},
                    Case{"zero span", Header("00", kTrace, std::string(16, '0'), "01"), false},
                    Case{"more than version 00 has", Header("00", kTrace, kSpan, "01-what"), false},
                    Case{"a dash more", Header("00", kTrace, kSpan, "01-"), false},
                    Case{"later version", Header("01", kTrace, kSpan, "01"), true},
                    Case{"later version with more", Header("cc", kTrace, kSpan, "01-what-the-future-brings"), true},
                    Case{"later version with an empty field", Header("cc", kTrace, kSpan, "01-"), true},
                    Case{"later version with longer flags", Header("cc", kTrace, kSpan, "01.what"), false},
                    Case{"later version, zero trace", Header("cc", std::string(32, '0'), kSpan, "01"), false},
                    Case{"space before", absl::StrCat(" ", Header("00", kTrace, kSpan, "01")), false},
                    Case{"underscores", absl::StrCat("00_", kTrace, "_", kSpan, "_01"), false},
                    Case{"a zero byte", Header("00", kTrace, std::string("00f067aa0ba902b\0", 16), "01"), false},
                    Case{"high bytes",
                         Header("00", kTrace, "\xff\xfe\xfd\xfc\xff\xfe\xfd\xfc\xff\xfe\xfd\xfc\xff\xfe\xfd\xfc", "01"),
                         false}));

TEST(TracestateTest, KeepsLists) {
  EXPECT_EQ(CleanTracestate("congo=t61rcWkgMzE"), "congo=t61rcWkgMzE");
  EXPECT_EQ(CleanTracestate("rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"), "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE");
  EXPECT_EQ(CleanTracestate(" a=1 ,\t, b@c=2 3,"), "a=1,b@c=2 3");
  EXPECT_EQ(CleanTracestate("0a/b*c_d-e=!"), "0a/b*c_d-e=!");
  EXPECT_EQ(CleanTracestate(""), "");
}

TEST(TracestateTest, DropsListsThatAreWrong) {
  for (const std::string& text :
       {std::string("a"), std::string("=1"), std::string("a="), std::string("A=1"), std::string("a=1,a=2"),
        std::string("a=b=c"), std::string("a=\x01"), std::string("a=\xc3\xa4"), std::string("a b=1"),
        std::string("_a=1"), absl::StrCat(std::string(257, 'a'), "=1"), absl::StrCat("a=", std::string(257, '1'))}) {
    EXPECT_EQ(CleanTracestate(text), "") << text;
  }
  std::vector<std::string> members;
  for (int i = 0; i < 32; ++i) members.push_back(absl::StrCat("k", i, "=1"));
  EXPECT_EQ(CleanTracestate(absl::StrJoin(members, ",")), absl::StrJoin(members, ","));
  members.push_back("more=1");
  EXPECT_EQ(CleanTracestate(absl::StrJoin(members, ",")), "");
  EXPECT_EQ(CleanTracestate(std::string(1 << 20, ',')), "");
}

TEST(TracestateTest, CutsLongListsAsTheStandardAsks) {
  const std::string wide = absl::StrCat("wide=", std::string(200, 'x'));
  std::vector<std::string> members;
  for (int i = 0; i < 10; ++i) members.push_back(absl::StrCat("k", i, "=", std::string(45, 'x')));
  const std::string narrow = absl::StrJoin(members, ",");
  ASSERT_LE(narrow.size(), kMaxTracestateBytes);
  // What is long goes first, wherever it is.
  EXPECT_EQ(CleanTracestate(absl::StrCat(wide, ",", narrow)), narrow);
  // Then what is on the right.
  members.push_back(absl::StrCat("last=", std::string(100, 'x')));
  EXPECT_EQ(CleanTracestate(absl::StrJoin(members, ",")), narrow);
}

TEST(TraceIdTest, IdsDiffer) {
  std::set<std::string> ids;
  for (int i = 0; i < 1000; ++i) {
    ids.insert(ToHex(NewTraceId()));
    ids.insert(ToHex(NewSpanId()));
  }
  EXPECT_EQ(ids.size(), 2000u);
}

}  // namespace
}  // namespace baton
