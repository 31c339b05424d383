#include "common/text/utf8.h"

#include <gtest/gtest.h>

#include <random>

namespace baton {
namespace {

using std::string_literals::operator""s;

std::string Replaced(std::string bytes) {
  std::string text;
  MoveUtf8(bytes, text, /*flush=*/true);
  return text;
}

TEST(FindInvalidUtf8, AcceptsWhatUnicodeAllows) {
  for (const std::string& text :
       {""s, "a"s, "\0"s, "\x7F"s, "\u0080"s, "\u07FF"s, "\u0800"s, "\uD7FF"s, "\uE000"s, "\uFFFD"s, "\uFFFF"s,
        "\U00010000"s, "\U0010FFFF"s, "na\u00EFve \u4E2D \U0001F600"s}) {
    EXPECT_EQ(FindInvalidUtf8(text), absl::string_view::npos) << text;
  }
}

TEST(FindInvalidUtf8, NamesTheOffset) {
  const std::pair<std::string, size_t> cases[] = {
      {"\x80", 0},         {"a\xFF", 1},      {"\xC0\x80", 0},         {"\xC1\xBF", 0},         {"\xE0\x9F\xBF", 0},
      {"\xED\xA0\x80", 0}, {"ab\xE2\x82", 2}, {"\xF0\x8F\xBF\xBF", 0}, {"\xF4\x90\x80\x80", 0}, {"\xF5\x80\x80\x80", 0},
      {"\u00E9\xC3", 2},   {"\xC3(", 0}};
  for (const auto& [text, offset] : cases) EXPECT_EQ(FindInvalidUtf8(text), offset);
}

// The examples of Unicode 15, tables 3-8 to 3-11 (U+FFFD for each maximal subpart).
TEST(MoveUtf8, ReplacesMaximalSubparts) {
  const std::string r = "\uFFFD";
  EXPECT_EQ(Replaced("\xC0\xAF\xE0\x80\xBF\xF0\x81\x82\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(Replaced("\xED\xA0\x80\xED\xBF\xBF\xED\xAF\x41"), r + r + r + r + r + r + r + r + "A");
  EXPECT_EQ(Replaced("\xF4\x91\x92\x93\xFF\x41\x80\xBF\x42"), r + r + r + r + r + "A" + r + r + "B");
  EXPECT_EQ(Replaced("\xE1\x80\xE2\xF0\x91\x92\xF1\xBF\x41"), r + r + r + r + "A");
}

TEST(MoveUtf8, KeepsAnIncompleteCharacter) {
  std::string bytes = "a\xE2\x82";
  std::string text;
  MoveUtf8(bytes, text, /*flush=*/false);
  EXPECT_EQ(text, "a");
  EXPECT_EQ(bytes, "\xE2\x82");
  bytes += "\xAC!";
  MoveUtf8(bytes, text, /*flush=*/false);
  EXPECT_EQ(text, "a\u20AC!");
  EXPECT_EQ(bytes, "");
}

TEST(MoveUtf8, PieceByPieceEqualsTheWhole) {
  std::mt19937 random(3);
  const std::string alphabet = "a\x80\xBF\xC3\xA9\xE2\x82\xAC\xED\xA0\xF0\x9F\x98\x80\xF4\xFF";
  for (int round = 0; round < 2000; ++round) {
    std::string bytes;
    for (size_t length = random() % 12; length > 0; --length) bytes += alphabet[random() % alphabet.size()];
    std::string held;
    std::string text;
    for (size_t i = 0; i < bytes.size(); ++i) {
      held += bytes[i];
      MoveUtf8(held, text, /*flush=*/false);
      ASSERT_TRUE(IsValidUtf8(text));
      ASSERT_LT(held.size(), 4u);
    }
    MoveUtf8(held, text, /*flush=*/true);
    ASSERT_EQ(text, Replaced(bytes));
  }
}

TEST(StripUnicodeWhitespace, StripsWhatPythonStrips) {
  EXPECT_EQ(StripUnicodeWhitespace(" \t\r\n\v\f\x1C\x1F\u0085\u00A0\u1680\u2003\u2028\u202F\u205F\u3000x y\u3000 \n"),
            "x y");
  EXPECT_EQ(StripUnicodeWhitespace("\u200Bx\uFEFF"), "\u200Bx\uFEFF") << "neither is white space";
  EXPECT_EQ(StripUnicodeWhitespace(" \u2003\n"), "");
  EXPECT_EQ(StripUnicodeWhitespace(""), "");
  EXPECT_EQ(StripUnicodeWhitespace(" \u4E2D\U0001F600 "), "\u4E2D\U0001F600");
}

}  // namespace
}  // namespace baton
