#include "gateway/cli/trace_picture.h"

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <tuple>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "common/base/status_macros.h"
#include "gateway/cli/format.h"

namespace baton::cli {
namespace {

using v1::GetTraceResponse;
using v1::TraceSpan;

// Of a bar; below the least there is none.
constexpr int kLeastBar = 8;
constexpr int kMostBar = 100;
constexpr int kLeastName = 16;
constexpr int kNumberColumns = 8;

// What one row tells.
struct Row {
  std::string process;
  std::string name;
  int depth = 0;
  uint64_t start = 0;
  uint64_t end = 0;
  // Of a span that is not over: it has taken so long so far.
  bool open = false;
  // A moment: no duration.
  bool event = false;
  bool failed = false;
  // Lines below it.
  std::vector<std::string> notes;
};

std::string ShortName(const TraceSpan& span) {
  const size_t slash = span.name().rfind('/');
  const size_t dot = slash == std::string::npos ? std::string::npos : span.name().rfind('.', slash);
  std::string name = dot == std::string::npos ? span.name() : span.name().substr(dot + 1);
  if (span.kind() == "client") name = absl::StrCat("call ", name);
  for (const v1::TraceAttribute& attribute : span.attributes()) {
    if (attribute.key() == "baton.attempt" && span.name() == "attempt") absl::StrAppend(&name, " ", attribute.number());
    if (attribute.key() == "baton.hedge" && attribute.flag()) absl::StrAppend(&name, ", hedge");
    if (attribute.key() == "baton.race") absl::StrAppend(&name, ", ", attribute.text());
    if (attribute.key() == "baton.choice") absl::StrAppend(&name, ", choice ", attribute.number());
    if (attribute.key() == "baton.continuation") absl::StrAppend(&name, " ", attribute.number());
  }
  return WithoutControls(name);
}

std::string ValueText(const v1::TraceAttribute& attribute) {
  switch (attribute.value_case()) {
    case v1::TraceAttribute::kNumber:
      return absl::StrCat(attribute.number());
    case v1::TraceAttribute::kReal:
      return absl::StrFormat("%.6g", attribute.real());
    case v1::TraceAttribute::kFlag:
      return attribute.flag() ? "true" : "false";
    default:
      return WithoutControls(attribute.text());
  }
}

const v1::TraceAttribute* Find(const TraceSpan& span, const std::string& key) {
  for (const v1::TraceAttribute& attribute : span.attributes()) {
    if (attribute.key() == key) return &attribute;
  }
  return nullptr;
}

// Everything that the picture is made of.
class Picture {
 public:
  Picture(const GetTraceResponse& response, const TracePictureOptions& options)
      : response_(response), options_(options), root_(response.spans(0)) {
    NameProcesses();
    begin_ = root_.start_unix_nanos();
    end_ = root_.end_unix_nanos() == 0 ? options.now_unix_nanos : root_.end_unix_nanos();
    for (const TraceSpan& span : response.spans()) {
      ids_.insert(span.span_id());
      end_ = std::max({end_, span.start_unix_nanos(), span.end_unix_nanos()});
      for (const v1::TraceEvent& event : span.events()) end_ = std::max(end_, event.unix_nanos());
    }
    for (const TraceSpan& span : response.spans()) {
      if (&span == &root_) continue;
      // Those whose parents are missing hang on the whole.
      const bool known = ids_.count(span.parent_span_id()) > 0;
      children_[known ? span.parent_span_id() : root_.span_id()].push_back(&span);
    }
    AddRows(root_, 0);
  }

  std::vector<std::string> Lines(const Terminal& terminal) const {
    std::vector<std::string> lines = Head(terminal);
    Layout layout = MakeLayout();
    const std::string scale =
        absl::StrCat("0", std::string(std::max(0, layout.bar - 1 - TimeWidth()), ' '), WholeTime());
    lines.push_back(terminal.Paint(Terminal::Style::kBold,
                                   absl::StrCat(Padded("", layout.process), PaddedLeft("START", kNumberColumns), "  ",
                                                PaddedLeft("TIME", kNumberColumns), "  ", Padded("SPAN", layout.name),
                                                layout.bar > 0 ? absl::StrCat("  ", scale) : "")));
    for (const Row& row : rows_) {
      const Terminal::Style style = row.failed  ? Terminal::Style::kRed
                                    : row.event ? Terminal::Style::kDim
                                                : StyleOf(row.process);
      const std::string time = row.event ? "" : absl::StrCat(row.open ? ">" : "", Duration(row.end - row.start));
      const std::string start =
          row.start >= begin_ ? Duration(row.start - begin_) : absl::StrCat("-", Duration(begin_ - row.start));
      lines.push_back(absl::StrCat(
          terminal.Paint(style, Padded(row.process, layout.process)), PaddedLeft(start, kNumberColumns), "  ",
          PaddedLeft(time, kNumberColumns), "  ",
          terminal.Paint(style, Padded(std::string(2 * static_cast<size_t>(row.depth), ' ') + row.name, layout.name)),
          layout.bar > 0 ? absl::StrCat("  ", terminal.Paint(style, Bar(row, layout.bar))) : ""));
      for (const std::string& note : row.notes) {
        const size_t before = static_cast<size_t>(layout.process + 2 * (kNumberColumns + 2) + 2 * row.depth + 2);
        lines.push_back(terminal.Paint(row.failed ? Terminal::Style::kRed : Terminal::Style::kDim,
                                       Cut(std::string(before, ' ') + note, options_.width)));
      }
      while (!lines.back().empty() && lines.back().back() == ' ') lines.back().pop_back();
    }
    for (const v1::MissingSpans& missing : response_.missing()) {
      lines.push_back(terminal.Paint(Terminal::Style::kYellow,
                                     absl::StrCat("missing: the part of ", WithoutControls(missing.endpoint()), ": ",
                                                  WithoutControls(missing.reason()))));
    }
    return lines;
  }

 private:
  struct Layout {
    int process = 0;
    int name = 0;
    int bar = 0;
  };

  static std::string Duration(uint64_t nanos) { return FormatSeconds(static_cast<double>(nanos) * 1e-9); }
  std::string WholeTime() const { return Duration(end_ - begin_); }
  int TimeWidth() const { return static_cast<int>(WholeTime().size()); }
  // All names of ours are ASCII, of which each byte is a column.
  static std::string Padded(std::string text, int width) {
    text.resize(static_cast<size_t>(width), ' ');
    return text;
  }
  static std::string PaddedLeft(const std::string& text, int width) {
    const auto columns = static_cast<size_t>(width);
    return text.size() >= columns ? text : std::string(columns - text.size(), ' ') + text;
  }
  static std::string Cut(std::string text, int width) {
    if (width > 0 && text.size() > static_cast<size_t>(width)) text.resize(static_cast<size_t>(width));
    return text;
  }

  static std::string Key(const TraceSpan& span) {
    return absl::StrCat(span.role(), " ", span.endpoint(), " ", span.boot_id());
  }

  // Short names for processes: the gateway, P1, D1, D2 ... A worker that has no spans here is known from calls to it.
  void NameProcesses() {
    for (const TraceSpan& span : response_.spans()) {
      if (names_.count(Key(span)) == 0) {
        const bool worker = !span.endpoint().empty();
        names_[Key(span)] = worker ? WorkerName(span.endpoint(), span.role()) : "gw";
        processes_.push_back(
            {names_[Key(span)], WithoutControls(absl::StrCat(span.role(), worker ? " " : "", span.endpoint(), "  boot ",
                                                             span.boot_id()))});
      }
      const v1::TraceAttribute* const called = Find(span, "server.address");
      if (called == nullptr || span.kind() != "client") continue;
      WorkerName(called->text(), absl::StrContains(span.name(), ".Prefill/") ? "prefill" : "decode");
    }
    for (const v1::MissingSpans& missing : response_.missing()) {
      const auto worker = workers_.find(missing.endpoint());
      if (worker == workers_.end()) continue;
      const char* const role = absl::StartsWith(worker->second, "P") ? "prefill " : "decode ";
      const auto told = std::find_if(processes_.begin(), processes_.end(),
                                     [&](const auto& process) { return process.first == worker->second; });
      if (told != processes_.end()) continue;
      processes_.push_back({worker->second, WithoutControls(absl::StrCat(role, missing.endpoint(), "  (see below)"))});
    }
    std::sort(processes_.begin() + 1, processes_.end());
  }
  std::string WorkerName(const std::string& endpoint, const std::string& role) {
    std::string& name = workers_[endpoint];
    const std::string letter = role == "prefill" ? "P" : role == "decode" ? "D" : "W";
    if (name.empty()) name = absl::StrCat(letter, ++counts_[letter]);
    return name;
  }

  static Terminal::Style StyleOf(const std::string& process) {
    if (absl::StartsWith(process, "P")) return Terminal::Style::kCyan;
    return absl::StartsWith(process, "D") ? Terminal::Style::kGreen : Terminal::Style::kPlain;
  }

  void AddRows(const TraceSpan& span, int depth) {
    // A response that is not sane may hold a circle; nothing of it is shown twice.
    if (!shown_.insert(span.span_id()).second) return;
    Row row;
    row.process = names_.at(Key(span));
    row.name = ShortName(span);
    const v1::TraceAttribute* const called = Find(span, "server.address");
    if (called != nullptr && span.kind() == "client") absl::StrAppend(&row.name, " at ", workers_.at(called->text()));
    row.depth = depth;
    row.start = span.start_unix_nanos();
    row.open = span.end_unix_nanos() == 0;
    row.end = std::max(row.start, row.open ? end_ : span.end_unix_nanos());
    row.failed = span.failed();
    if (span.failed()) {
      const v1::TraceAttribute* const type = Find(span, "error.type");
      row.notes.push_back(absl::StrCat("! ", type == nullptr ? "" : absl::StrCat(ValueText(*type), ": "),
                                       WithoutControls(span.error())));
    }
    if (options_.attributes) {
      for (const v1::TraceAttribute& attribute : span.attributes()) {
        row.notes.push_back(absl::StrCat(WithoutControls(attribute.key()), " = ", ValueText(attribute)));
      }
    }
    rows_.push_back(std::move(row));
    std::vector<std::tuple<uint64_t, const TraceSpan*, const v1::TraceEvent*>> parts;
    for (const v1::TraceEvent& event : span.events()) parts.emplace_back(event.unix_nanos(), nullptr, &event);
    for (const TraceSpan* child : children_[span.span_id()])
      parts.emplace_back(child->start_unix_nanos(), child, nullptr);
    std::stable_sort(parts.begin(), parts.end(),
                     [](const auto& a, const auto& b) { return std::get<0>(a) < std::get<0>(b); });
    for (const auto& [time, child, event] : parts) {
      if (child != nullptr) {
        AddRows(*child, depth + 1);
        continue;
      }
      Row moment;
      moment.process = names_.at(Key(span));
      moment.name = absl::StrCat("* ", WithoutControls(event->name()));
      moment.depth = depth + 1;
      moment.start = moment.end = time;
      moment.event = true;
      rows_.push_back(std::move(moment));
    }
  }

  std::vector<std::string> Head(const Terminal& terminal) const {
    std::vector<std::string> lines;
    lines.push_back(absl::StrCat(terminal.Paint(Terminal::Style::kBold, "request "),
                                 WithoutControls(response_.request_id()), "  trace ",
                                 WithoutControls(response_.trace_id())));
    std::string summary;
    const auto add = [&](const std::string& key, const std::string& before, const std::string& after) {
      const v1::TraceAttribute* const found = Find(root_, key);
      if (found == nullptr) return;
      absl::StrAppend(&summary, summary.empty() ? "" : ", ", before, ValueText(*found), after);
    };
    add("gen_ai.request.model", "", "");
    add("gen_ai.usage.input_tokens", "", " prompt tokens");
    add("gen_ai.usage.cache_read.input_tokens", "", " of them cached");
    add("gen_ai.usage.output_tokens", "", " output tokens");
    add("baton.outcome", "", "");
    for (const v1::TraceEvent& event : root_.events()) {
      if (event.name() != "first token") continue;
      absl::StrAppend(&summary, summary.empty() ? "" : ", ", "first token after ",
                      Duration(event.unix_nanos() - std::min(event.unix_nanos(), begin_)));
      break;
    }
    if (root_.end_unix_nanos() == 0) absl::StrAppend(&summary, summary.empty() ? "" : ", ", "still running");
    lines.push_back(summary);
    lines.push_back(absl::StrCat(
        "began ", absl::FormatTime("%Y-%m-%d %H:%M:%E3S %Ez", absl::FromUnixNanos(static_cast<int64_t>(begin_)),
                                   absl::LocalTimeZone())));
    lines.push_back("");
    for (const auto& [name, what] : processes_) {
      lines.push_back(absl::StrCat(terminal.Paint(StyleOf(name), Padded(name, 4)), what));
    }
    lines.push_back("");
    return lines;
  }

  Layout MakeLayout() const {
    Layout layout;
    for (const Row& row : rows_) {
      layout.process = std::max(layout.process, static_cast<int>(row.process.size()));
      layout.name = std::max(layout.name, static_cast<int>(row.name.size()) + 2 * row.depth);
    }
    layout.process += 1;
    layout.name = std::max(layout.name, kLeastName);
    const int numbers = layout.process + 2 * (kNumberColumns + 2) + 2;
    layout.bar = options_.width - numbers - layout.name;
    if (layout.bar < kLeastBar) {
      layout.name = std::max(kLeastName, std::min(layout.name, options_.width - numbers - kLeastBar));
      layout.bar = options_.width - numbers - layout.name;
    }
    if (layout.bar < kLeastBar) {
      layout.bar = 0;
      layout.name = std::max(1, options_.width - numbers + 2);
    }
    layout.bar = std::min(layout.bar, kMostBar);
    return layout;
  }

  // The column of a moment, in [0, width).
  int Column(uint64_t time, int width) const {
    if (time <= begin_ || end_ <= begin_) return 0;
    const double share = static_cast<double>(time - begin_) / static_cast<double>(end_ - begin_);
    return std::clamp(static_cast<int>(share * width), 0, width - 1);
  }

  std::string Bar(const Row& row, int width) const {
    const char* const full = row.event ? (options_.blocks ? "\u25c6" : "*") : options_.blocks ? "\u2588" : "#";
    const char* const sliver = options_.blocks ? "\u258f" : "|";
    const int first = Column(row.start, width);
    const int last = Column(row.end, width);
    std::string bar(static_cast<size_t>(first), ' ');
    // Shorter than half a column.
    const bool tiny = (row.end - row.start) * 2 * static_cast<uint64_t>(width) < end_ - begin_;
    if (!row.event && tiny) return bar + sliver;
    for (int i = first; i <= last; ++i) bar += full;
    return bar;
  }

  const GetTraceResponse& response_;
  const TracePictureOptions options_;
  const TraceSpan& root_;
  uint64_t begin_ = 0;
  uint64_t end_ = 0;
  std::map<std::string, std::string> names_;
  // By endpoint.
  std::map<std::string, std::string> workers_;
  std::map<std::string, int> counts_;
  // Short name and what it is; the gateway first.
  std::vector<std::pair<std::string, std::string>> processes_;
  std::set<std::string> ids_;
  std::set<std::string> shown_;
  std::map<std::string, std::vector<const TraceSpan*>> children_;
  std::vector<Row> rows_;
};

}  // namespace

std::vector<std::string> TracePicture(const GetTraceResponse& response, const Terminal& terminal,
                                      const TracePictureOptions& options) {
  BATON_CHECK(response.spans_size() > 0);
  return Picture(response, options).Lines(terminal);
}

}  // namespace baton::cli
