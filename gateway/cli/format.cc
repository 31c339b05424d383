#include "gateway/cli/format.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "common/text/utf8.h"

namespace baton::cli {

size_t Columns(absl::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; }));
}

std::string FirstColumns(absl::string_view text, size_t columns) {
  size_t end = 0;
  while (end < text.size() && columns > 0) {
    end += FirstUtf8Sequence(text.substr(end)).length;
    --columns;
  }
  return std::string(text.substr(0, end));
}

std::string FormatSeconds(double seconds) {
  if (!(seconds >= 0)) return "-";
  if (seconds < 0.0009995) return absl::StrFormat("%.0f us", seconds * 1e6);
  if (seconds < 0.9995) return absl::StrFormat("%.0f ms", seconds * 1e3);
  if (seconds < 9.95) return absl::StrFormat("%.1f s", seconds);
  if (seconds < 59.5) return absl::StrFormat("%.0f s", seconds);
  const auto whole = static_cast<int64_t>(std::min(std::max(seconds, 60.0), 1e15));
  if (whole < 3600) return absl::StrFormat("%dm%02ds", whole / 60, whole % 60);
  if (whole < 86400) return absl::StrFormat("%dh%02dm", whole / 3600, whole % 3600 / 60);
  return absl::StrFormat("%dd%02dh", whole / 86400, whole % 86400 / 3600);
}

std::string FormatRate(double per_second) {
  if (!(per_second > 0)) return "0";
  if (per_second < 1) return absl::StrFormat("%.2f", per_second);
  if (per_second < 10) return absl::StrFormat("%.1f", per_second);
  return absl::StrFormat("%.0f", per_second);
}

std::string FormatCount(int64_t count) {
  if (count < 10000) return absl::StrCat(count);
  if (count < 1000000) return absl::StrFormat("%.0fK", static_cast<double>(count) / 1e3);
  if (count < 1000000000) return absl::StrFormat("%.2fM", static_cast<double>(count) / 1e6);
  return absl::StrFormat("%.2fB", static_cast<double>(count) / 1e9);
}

std::string Quoted(absl::string_view text) {
  std::string out = "\"";
  while (!text.empty()) {
    const Utf8Sequence sequence = FirstUtf8Sequence(text);
    const absl::string_view bytes = text.substr(0, sequence.length);
    const auto first = static_cast<unsigned char>(bytes[0]);
    const bool control = first < 0x20 || first == 0x7F ||
                         (first == 0xC2 && bytes.size() == 2 && static_cast<unsigned char>(bytes[1]) < 0xA0);
    if (bytes == "\n") {
      out += "\\n";
    } else if (bytes == "\t") {
      out += "\\t";
    } else if (bytes == "\"" || bytes == "\\") {
      absl::StrAppend(&out, "\\", bytes);
    } else if (sequence.kind != Utf8Sequence::kCharacter || control) {
      for (const char byte : bytes) absl::StrAppendFormat(&out, "\\x%02x", static_cast<unsigned char>(byte));
    } else {
      absl::StrAppend(&out, bytes);
    }
    text.remove_prefix(sequence.length);
  }
  return out + "\"";
}

void Table::AddColumn(std::string title, Align align) {
  titles_.push_back({std::move(title), Terminal::Style::kBold});
  aligns_.push_back(align);
}

void Table::AddRow(std::vector<Cell> cells) {
  BATON_CHECK(cells.size() == titles_.size());
  rows_.push_back(std::move(cells));
}

std::vector<std::string> Table::Lines(const Terminal& terminal, int width) const {
  std::vector<size_t> widths;
  for (const Cell& title : titles_) widths.push_back(Columns(title.text));
  for (const std::vector<Cell>& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Columns(row[i].text));
  }

  std::vector<std::string> lines;
  const auto add_line = [&](const std::vector<Cell>& row) {
    std::string line;
    size_t used = 0;
    const size_t limit = width > 0 ? static_cast<size_t>(width) : std::string::npos;
    for (size_t i = 0; i < row.size() && used < limit; ++i) {
      const std::string padding(widths[i] - Columns(row[i].text), ' ');
      std::string before = i == 0 ? "" : "  ";
      std::string after;
      if (aligns_[i] == Align::kRight) {
        before += padding;
      } else if (i + 1 < row.size()) {
        after = padding;
      }
      before.resize(std::min(before.size(), limit - used), ' ');
      used += before.size();
      const std::string text = FirstColumns(row[i].text, limit - used);
      used += Columns(text);
      after.resize(std::min(after.size(), limit - used), ' ');
      used += after.size();
      absl::StrAppend(&line, before, terminal.Paint(row[i].style, text), after);
    }
    lines.push_back(std::move(line));
  };
  add_line(titles_);
  for (const std::vector<Cell>& row : rows_) add_line(row);
  return lines;
}

}  // namespace baton::cli
