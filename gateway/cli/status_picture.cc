#include "gateway/cli/status_picture.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/bytes.h"
#include "gateway/cli/format.h"
#include "gateway/cli/status_columns.h"
#include "gateway/cli/status_summary.h"

namespace baton::cli {
namespace {

using Style = Terminal::Style;
using Workers = std::vector<const v1::WorkerStatus*>;

// Names are cut to so much where the screen is narrow, and where it is not.
constexpr int kNarrow = 100;
constexpr size_t kNarrowModel = 13;
constexpr size_t kNarrowEndpoint = 22;
constexpr size_t kWideName = 48;
constexpr int kGap = 2;
// Bars of state memory: " 100%" follows them.
constexpr int kShortBar = 6;
constexpr int kLongBar = 16;

// The end of an address tells more than its beginning, which a name's does.
std::string Shortened(std::string text, size_t columns, bool keep_end) {
  constexpr char kEllipsis[] = "\u2026";
  if (Columns(text) <= columns) return text;
  if (!keep_end) return absl::StrCat(FirstColumns(text, columns - 1), kEllipsis);
  // Names are ASCII but for replaced characters.
  const size_t cut = FirstColumns(text, Columns(text) - columns + 1).size();
  return absl::StrCat(kEllipsis, text.substr(cut));
}

Table::Cell BarCell(const v1::WorkerStatus& worker, int bar, bool with_total) {
  const double share = MemoryShare(worker);
  if (share < 0) return {"-", Style::kDim};
  const int full = std::min(bar, static_cast<int>(std::lround(share * bar)));
  std::string text;
  for (int i = 0; i < bar; ++i) text += i < full ? "\u2588" : "\u2591";
  absl::StrAppendFormat(&text, " %3.0f%%", 100 * share);
  if (with_total) absl::StrAppend(&text, " of ", FormatBytes(worker.state_bytes_total()));
  return {text, MemoryStyle(share)};
}

class WorkerTable {
 public:
  WorkerTable(const Workers& workers, const StatusView& view, const StatusPictureOptions& options)
      : workers_(workers), view_(view), options_(options) {
    const std::string& first_model = workers.front()->model();
    one_model_ = std::all_of(workers.begin(), workers.end(), [&](const auto* w) { return w->model() == first_model; });
    Choose();
  }

  // Header first; only the workers from `first` on, at most `count`.
  std::vector<std::string> Lines(int first, int count, const Terminal& terminal) const {
    // As wide as all of them need, so that nothing moves when one scrolls.
    Table table;
    for (const int column : chosen_) table.AddColumn(Title(column), StatusColumns()[static_cast<size_t>(column)].align);
    for (const v1::WorkerStatus* worker : workers_) {
      std::vector<Table::Cell> row;
      row.reserve(chosen_.size());
      for (const int column : chosen_) row.push_back(CellOf(column, *worker));
      table.AddRow(std::move(row));
    }
    std::vector<std::string> lines = table.Lines(terminal, options_.width);
    std::vector<std::string> shown = {lines.front()};
    for (int i = first; i < first + count; ++i) shown.push_back(std::move(lines[static_cast<size_t>(i) + 1]));
    return shown;
  }

 private:
  bool IsNamed(int column, const char* name) const {
    return absl::string_view(StatusColumns()[static_cast<size_t>(column)].name) == name;
  }

  std::string Title(int column) const {
    const char* const title = StatusColumns()[static_cast<size_t>(column)].title;
    if (!options_.live || column != view_.sort) return title;
    // Numbers are sorted from the largest one down, text from A up.
    const bool up = (StatusColumns()[static_cast<size_t>(column)].text != nullptr) != view_.reversed;
    return absl::StrCat(title, up ? "\u25b2" : "\u25bc");
  }

  Table::Cell CellOf(int column, const v1::WorkerStatus& worker) const {
    if (options_.bars && IsNamed(column, "memory")) return BarCell(worker, bar_, with_total_);
    Table::Cell cell = StatusColumns()[static_cast<size_t>(column)].cell(worker);
    if (options_.width == 0) return cell;
    const bool narrow = options_.width < kNarrow;
    if (IsNamed(column, "model")) {
      cell.text = Shortened(std::move(cell.text), narrow ? kNarrowModel : kWideName, /*keep_end=*/false);
    } else if (IsNamed(column, "endpoint")) {
      cell.text = Shortened(std::move(cell.text), narrow ? kNarrowEndpoint : kWideName, /*keep_end=*/true);
    }
    return cell;
  }

  int Width(int column) const {
    size_t width = Columns(Title(column));
    for (const v1::WorkerStatus* worker : workers_) width = std::max(width, Columns(CellOf(column, *worker).text));
    return static_cast<int>(width);
  }

  int Importance(int column) const {
    // What people sort by they want to see.
    if (options_.live && column == view_.sort && view_.sort != 0) return 99;
    // Where all say the same, it tells nothing.
    if (one_model_ && IsNamed(column, "model")) return 10;
    return StatusColumns()[static_cast<size_t>(column)].importance;
  }

  // The most important columns that fit.
  void Choose() {
    std::vector<int> columns(StatusColumns().size());
    std::iota(columns.begin(), columns.end(), 0);
    if (options_.width == 0) {
      chosen_ = columns;
      return;
    }
    std::stable_sort(columns.begin(), columns.end(), [&](int a, int b) { return Importance(a) > Importance(b); });
    int left = options_.width + kGap;
    for (const int column : columns) {
      const int needed = Width(column) + kGap;
      if (needed > left && !chosen_.empty()) continue;
      left -= needed;
      chosen_.push_back(column);
    }
    std::sort(chosen_.begin(), chosen_.end());
    const bool has_bar = std::any_of(chosen_.begin(), chosen_.end(), [&](int c) { return IsNamed(c, "memory"); });
    constexpr int kTotalColumns = 14;  // " of 1023.9 MiB"
    if (!options_.bars || !has_bar) return;
    with_total_ = left >= kTotalColumns;
    if (with_total_) left -= kTotalColumns;
    bar_ = std::clamp(bar_ + left, bar_, kLongBar);
  }

  const Workers& workers_;
  const StatusView& view_;
  const StatusPictureOptions& options_;
  bool one_model_ = false;
  std::vector<int> chosen_;
  int bar_ = kShortBar;
  bool with_total_ = false;
};

StyledLine TopLine(const v1::GetStatusResponse& response, const StatusView& view, const StatusPictureOptions& options) {
  StyledLine line = {{"gateway ", Style::kBold},
                     {absl::StrCat(PlainName(options.gateway), "  v", PlainName(response.gateway_version()), "  up ",
                                   FormatSeconds(response.uptime_seconds()))}};
  if (view.role != StatusView::Role::kAll) {
    line.push_back({absl::StrCat("  ", StatusRoleName(view.role), " only"), Style::kCyan});
  }
  if (!view.model.empty()) line.push_back({absl::StrCat("  model ", PlainName(view.model)), Style::kCyan});
  if (!options.live) return line;
  const StyledText right = view.paused ? StyledText{"PAUSED", Style::kYellow}
                                       : StyledText{absl::StrFormat("every %g s", view.interval_seconds), Style::kDim};
  size_t used = Columns(right.text);
  for (const StyledText& piece : line) used += Columns(piece.text);
  const size_t width = static_cast<size_t>(options.width);
  line.push_back({std::string(width > used + kGap ? width - used : kGap, ' ')});
  line.push_back(right);
  return line;
}

StyledLine BottomLine(int first, int shown, size_t workers, int width) {
  constexpr char kKeys[] = "q leave  s sort  r reverse  p d a role  m model  space pause  w window  ? help";
  constexpr char kFewKeys[] = "q leave  s sort  p d a role  ? help";
  std::string range;
  if (static_cast<size_t>(shown) < workers) range = absl::StrCat(first + 1, "-", first + shown, " of ", workers, "  ");
  const bool all_fit = static_cast<int>(range.size() + sizeof kKeys - 1) <= width;
  return {{range, Style::kBold}, {all_fit ? kKeys : kFewKeys, Style::kDim}};
}

// Why workers are not there.
std::vector<StyledLine> Problems(const Workers& workers) {
  std::vector<StyledLine> lines;
  for (const v1::WorkerStatus* worker : workers) {
    if (worker->problem().empty()) continue;
    lines.push_back({{absl::StrCat(PlainName(worker->endpoint()), ": "), Style::kRed}, {PlainName(worker->problem())}});
  }
  return lines;
}

std::string Nobody(const v1::GetStatusResponse& response, const StatusView& view) {
  if (response.workers().empty()) return "no workers: start the gateway with --prefill-worker and --decode-worker";
  return absl::StrCat("no such workers among ", response.workers_size(), view.paused ? "" : "; a shows all");
}

}  // namespace

StatusPicture DrawStatus(const v1::GetStatusResponse& response, const StatusView& view,
                         const StatusPictureOptions& options, const Terminal& terminal) {
  const Workers workers = view.Workers(response);
  const int count = static_cast<int>(workers.size());
  std::vector<StyledLine> head = {TopLine(response, view, options)};
  if (!options.trouble.empty()) head.push_back({{options.trouble, Style::kRed}});
  const size_t needed_head = head.size();
  for (StyledLine& line : SummarizeStatus(response, view)) head.push_back(std::move(line));
  head.push_back({});

  StatusPicture picture;
  int room = count;
  const int bottom = options.live && (options.rows == 0 || options.rows > 4) ? 1 : 0;
  if (options.rows > 0) {
    // Half of the screen belongs to the workers if they need it, and the head gives way.
    const int wanted = std::min(std::max(count, 1), std::max(options.rows / 2, 1));
    const int head_room = options.rows - bottom - 1 - wanted;
    head.resize(std::min(head.size(), std::max(needed_head, static_cast<size_t>(std::max(head_room, 0)))));
    room = std::max(options.rows - static_cast<int>(head.size()) - bottom - 1, 0);
  }
  picture.page = std::max(room, 1);
  picture.first = std::clamp(view.first, 0, std::max(count - room, 0));
  const int shown = std::min(room, count - picture.first);

  const auto add = [&](const StyledLine& line) { picture.lines.push_back(PaintLine(line, options.width, terminal)); };
  for (const StyledLine& line : head) add(line);
  if (view.help) {
    for (const std::string& line : StatusHelp()) add({{line}});
  } else if (workers.empty()) {
    add({{Nobody(response, view)}});
  } else {
    for (std::string& line : WorkerTable(workers, view, options).Lines(picture.first, shown, terminal)) {
      picture.lines.push_back(std::move(line));
    }
    const std::vector<StyledLine> problems = Problems(workers);
    if (!problems.empty()) add({});
    for (const StyledLine& line : problems) add(line);
  }
  if (options.rows == 0) return picture;
  const auto body = static_cast<size_t>(std::max(options.rows - bottom, 1));
  picture.lines.resize(std::min(picture.lines.size(), body));
  if (bottom == 0) return picture;
  picture.lines.resize(body);
  add(BottomLine(picture.first, shown, workers.size(), options.width));
  return picture;
}

}  // namespace baton::cli
