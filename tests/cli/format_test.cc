#include "gateway/cli/format.h"

#include <cmath>

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "gateway/cli/terminal.h"

namespace baton::cli {
namespace {

using ::testing::ElementsAre;

TEST(FormatSeconds, PicksTheUnit) {
  EXPECT_EQ(FormatSeconds(0.00042), "420 us");
  EXPECT_EQ(FormatSeconds(0.012), "12 ms");
  EXPECT_EQ(FormatSeconds(3.44), "3.4 s");
  EXPECT_EQ(FormatSeconds(43.2), "43 s");
  EXPECT_EQ(FormatSeconds(59.6), "1m00s");
  EXPECT_EQ(FormatSeconds(125), "2m05s");
  EXPECT_EQ(FormatSeconds(3 * 3600 + 12 * 60), "3h12m");
  EXPECT_EQ(FormatSeconds(4 * 86400 + 2 * 3600), "4d02h");
  EXPECT_EQ(FormatSeconds(-1), "-");
  EXPECT_EQ(FormatSeconds(std::nan("")), "-");
  EXPECT_EQ(FormatSeconds(1e300).back(), 'h');
}

TEST(FormatCount, Shortens) {
  EXPECT_EQ(FormatCount(0), "0");
  EXPECT_EQ(FormatCount(8192), "8192");
  EXPECT_EQ(FormatCount(4069632), "4.07M");
  EXPECT_EQ(FormatCount(2614341888), "2.61B");
}

TEST(FormatRate, KeepsTwoOrThreeDigits) {
  EXPECT_EQ(FormatRate(0), "0");
  EXPECT_EQ(FormatRate(0.42), "0.42");
  EXPECT_EQ(FormatRate(7.34), "7.3");
  EXPECT_EQ(FormatRate(1540.4), "1540");
}

TEST(Quoted, EscapesWhatATerminalMustNotSee) {
  EXPECT_EQ(Quoted("plain"), "\"plain\"");
  EXPECT_EQ(Quoted("a\n\t\"\\"), "\"a\\n\\t\\\"\\\\\"");
  EXPECT_EQ(Quoted("\x1b[2J"), "\"\\x1b[2J\"");
  EXPECT_EQ(Quoted("\xC2\x9B"), "\"\\xc2\\x9b\"");
  EXPECT_EQ(Quoted("\xE2\x82"), "\"\\xe2\\x82\"");
  EXPECT_EQ(Quoted("\xE2\x82\xAC"), "\"\xE2\x82\xAC\"");
}

TEST(WithoutControls, KeepsTextAndLineBreaks) {
  EXPECT_EQ(WithoutControls("a\n\tb\xE2\x82\xAC"), "a\n\tb\xE2\x82\xAC");
  EXPECT_EQ(WithoutControls("\x1b]0;title\x07"), "\xEF\xBF\xBD]0;title\xEF\xBF\xBD");
  EXPECT_EQ(WithoutControls("\xC2\x9B"
                            "2J\x7f"),
            "\xEF\xBF\xBD"
            "2J\xEF\xBF\xBD");
}

TEST(Table, AlignsAndCuts) {
  const Terminal terminal(-1, -1, -1);
  Table table;
  table.AddColumn("NAME");
  table.AddColumn("N", Table::Align::kRight);
  table.AddColumn("LAST");
  table.AddRow({{"\xC3\xA9t\xC3\xA9"}, {"7"}, {"x"}});
  table.AddRow({{"longer"}, {"1234"}, {"yy"}});
  EXPECT_THAT(table.Lines(terminal), ElementsAre("NAME       N  LAST",             //
                                                 "\xC3\xA9t\xC3\xA9        7  x",  //
                                                 "longer  1234  yy"));
  EXPECT_THAT(table.Lines(terminal, 10), ElementsAre("NAME      ",                //
                                                     "\xC3\xA9t\xC3\xA9       ",  //
                                                     "longer  12"));
}

TEST(Terminal, PaintsOnlyATerminal) {
  const Terminal terminal(-1, -1, -1);
  EXPECT_EQ(terminal.Paint(Terminal::Style::kRed, "text"), "text");
  EXPECT_EQ(terminal.columns(), 80);
}

}  // namespace
}  // namespace baton::cli
