// Numbers and names as people read them, and tables of them.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "gateway/cli/terminal.h"

namespace baton::cli {

// "850 us", "12 ms", "3.4 s", "43 s", "2m05s", "3h12m", "4d02h".
std::string FormatSeconds(double seconds);
// "0.42", "7.3", "210", "1540".
std::string FormatRate(double per_second);
// "950", "4.07M", "2.61B".
std::string FormatCount(int64_t count);
// Characters of `text`: as many columns as it takes, of names, addresses and numbers.
size_t Columns(absl::string_view text);
// The first of them.
std::string FirstColumns(absl::string_view text, size_t columns);
// In double quotes, with newlines, control characters and bytes that are not UTF-8 escaped.
std::string Quoted(absl::string_view text);

// Columns as wide as their widest cell, two spaces between. Cells hold one line of plain text; styles are applied
// after measuring.
class Table {
 public:
  enum class Align { kLeft, kRight };
  struct Cell {
    std::string text;
    Terminal::Style style = Terminal::Style::kPlain;
  };

  void AddColumn(std::string title, Align align = Align::kLeft);
  // As many cells as columns.
  void AddRow(std::vector<Cell> cells);
  // Lines without newlines, header first, each cut to `width` columns (0: not cut).
  std::vector<std::string> Lines(const Terminal& terminal, int width = 0) const;

 private:
  std::vector<Cell> titles_;
  std::vector<Align> aligns_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace baton::cli
