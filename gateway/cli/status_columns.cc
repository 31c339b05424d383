#include "gateway/cli/status_columns.h"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <tuple>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/bytes.h"
#include "common/text/utf8.h"

namespace baton::cli {
namespace {

using Worker = v1::WorkerStatus;

constexpr double kAlmostFull = 0.9;
constexpr double kRatherFull = 0.7;

// What an absent worker would say: it comes last.
constexpr double kNothing = -1;

bool Present(const Worker& worker) { return worker.state() == "SERVING" || worker.state() == "DRAINING"; }

std::string StateOf(const Worker& worker) { return worker.paused() ? "PAUSED" : PlainName(worker.state()); }

Table::Cell StateCell(const Worker& worker) {
  const std::string state = StateOf(worker);
  if (worker.paused() && worker.pause_seconds() >= 0.5) {
    return {absl::StrFormat("PAUSED %.0fs", std::min(worker.pause_seconds(), 999.0)), Terminal::Style::kYellow};
  }
  if (state == "SERVING") return {state, Terminal::Style::kGreen};
  return {state, state == "UNREACHABLE" ? Terminal::Style::kRed : Terminal::Style::kYellow};
}

Table::Cell Dash() { return {"-", Terminal::Style::kDim}; }

Table::Cell CountCell(const Worker& worker, int64_t count) {
  if (!Present(worker)) return Dash();
  return {FormatCount(std::max<int64_t>(count, 0)), count > 0 ? Terminal::Style::kPlain : Terminal::Style::kDim};
}

Table::Cell RateCell(const Worker& worker, double rate) {
  if (!Present(worker)) return Dash();
  constexpr double kLargest = 1e9;
  return {FormatRate(std::min(rate, kLargest)), rate > 0 ? Terminal::Style::kPlain : Terminal::Style::kDim};
}

double Count(const Worker& worker, double count) { return Present(worker) ? count : kNothing; }

Table::Cell MemoryCell(const Worker& worker) {
  const double share = MemoryShare(worker);
  if (share < 0) return Dash();
  return {absl::StrFormat("%.0f%% of %s", 100 * share, FormatBytes(worker.state_bytes_total())), MemoryStyle(share)};
}

Table::Cell CachedCell(const Worker& worker) {
  if (!Present(worker) || !(worker.cached_prompt_share() >= 0) || !worker.has_cached_prompt_share()) return Dash();
  return {absl::StrFormat("%.0f%%", 100 * std::clamp(worker.cached_prompt_share(), 0.0, 1.0))};
}

Table::Cell KeptCell(const Worker& worker, int64_t count, int64_t bytes) {
  if (worker.role() != "decode" || !Present(worker)) return Dash();
  if (count <= 0) return {"0", Terminal::Style::kDim};
  return {absl::StrCat(FormatCount(count), " (", FormatBytes(std::max<int64_t>(bytes, 0)), ")")};
}

// Workers report every second or more often.
Table::Cell SilenceCell(const Worker& worker) {
  constexpr double kLate = 2.5;
  if (!worker.has_silent_seconds()) return Dash();
  const double seconds = worker.silent_seconds();
  return {FormatSeconds(seconds), seconds > kLate ? Terminal::Style::kYellow : Terminal::Style::kPlain};
}

constexpr auto kLeft = Table::Align::kLeft;
constexpr auto kRight = Table::Align::kRight;

const StatusColumn kColumns[] = {
    {"model", "MODEL", kLeft, 65,
     [](const Worker& w) -> Table::Cell { return {w.model().empty() ? "-" : PlainName(w.model())}; },
     [](const Worker& w) { return w.model(); }, nullptr},
    {"role", "ROLE", kLeft, 90, [](const Worker& w) -> Table::Cell { return {PlainName(w.role())}; },
     // Prefill first.
     [](const Worker& w) { return std::string(w.role() == "prefill" ? "0" : "1"); }, nullptr},
    {"endpoint", "ENDPOINT", kLeft, 100, [](const Worker& w) -> Table::Cell { return {PlainName(w.endpoint())}; },
     [](const Worker& w) { return w.endpoint(); }, nullptr},
    {"state", "STATE", kLeft, 95, StateCell, StateOf, nullptr},
    {"running", "RUN", kRight, 80, [](const Worker& w) { return CountCell(w, w.running()); }, nullptr,
     [](const Worker& w) { return Count(w, static_cast<double>(w.running())); }},
    {"queued", "QUEUE", kRight, 70, [](const Worker& w) { return CountCell(w, w.queued()); }, nullptr,
     [](const Worker& w) { return Count(w, static_cast<double>(w.queued())); }},
    {"queued-tokens", "QTOKENS", kRight, 50, [](const Worker& w) { return CountCell(w, w.queued_tokens()); }, nullptr,
     [](const Worker& w) { return Count(w, static_cast<double>(w.queued_tokens())); }},
    {"tokens", "TOK/S", kRight, 85, [](const Worker& w) { return RateCell(w, w.tokens_per_second()); }, nullptr,
     [](const Worker& w) { return Count(w, w.tokens_per_second()); }},
    {"steps", "STEPS/S", kRight, 30, [](const Worker& w) { return RateCell(w, w.steps_per_second()); }, nullptr,
     [](const Worker& w) { return Count(w, w.steps_per_second()); }},
    {"batch", "BATCH", kRight, 60, [](const Worker& w) { return RateCell(w, w.sequences_per_step()); }, nullptr,
     [](const Worker& w) { return Count(w, w.sequences_per_step()); }},
    {"memory", "MEMORY", kLeft, 75, MemoryCell, nullptr, MemoryShare},
    {"cached", "CACHED", kRight, 55, CachedCell, nullptr,
     [](const Worker& w) { return w.has_cached_prompt_share() ? Count(w, w.cached_prompt_share()) : kNothing; }},
    {"sessions", "SESSIONS", kRight, 25,
     [](const Worker& w) { return KeptCell(w, w.kept_sessions(), w.kept_session_bytes()); }, nullptr,
     [](const Worker& w) { return Count(w, static_cast<double>(w.kept_sessions())); }},
    {"checkpoints", "CHECKPOINTS", kRight, 20,
     [](const Worker& w) { return KeptCell(w, w.checkpoints(), w.checkpoint_bytes()); }, nullptr,
     [](const Worker& w) { return Count(w, static_cast<double>(w.checkpoints())); }},
    {"heard", "HEARD", kRight, 45, SilenceCell, nullptr,
     [](const Worker& w) { return w.has_silent_seconds() ? w.silent_seconds() : kNothing; }},
    {"up", "UP", kRight, 40,
     [](const Worker& w) -> Table::Cell {
       return Present(w) ? Table::Cell{FormatSeconds(w.uptime_seconds())} : Dash();
     },
     nullptr, [](const Worker& w) { return Count(w, w.uptime_seconds()); }},
};

auto Place(const Worker& worker) {
  return std::make_tuple(worker.model(), worker.role() != "prefill", worker.endpoint());
}

}  // namespace

absl::Span<const StatusColumn> StatusColumns() { return kColumns; }

int FindStatusColumn(absl::string_view name) {
  const auto* const found =
      std::find_if(std::begin(kColumns), std::end(kColumns), [&](const StatusColumn& c) { return name == c.name; });
  return found == std::end(kColumns) ? -1 : static_cast<int>(found - std::begin(kColumns));
}

std::string StatusColumnNames() {
  std::string names;
  for (const StatusColumn& column : kColumns) absl::StrAppend(&names, names.empty() ? "" : ", ", column.name);
  return names;
}

void SortWorkers(int column, bool reversed, std::vector<const Worker*>* workers) {
  const StatusColumn& by = kColumns[column];
  // NaN would be no order.
  const auto number = [&](const Worker& worker) {
    const double value = by.number(worker);
    return std::isnan(value) ? kNothing : value;
  };
  std::sort(workers->begin(), workers->end(), [](const Worker* a, const Worker* b) { return Place(*a) < Place(*b); });
  std::stable_sort(workers->begin(), workers->end(), [&](const Worker* first, const Worker* second) {
    const Worker& a = reversed ? *second : *first;
    const Worker& b = reversed ? *first : *second;
    return by.text != nullptr ? by.text(a) < by.text(b) : number(a) > number(b);
  });
}

std::string PlainName(absl::string_view text) {
  std::string name;
  while (!text.empty()) {
    const size_t length = FirstUtf8Sequence(text).length;
    if (length == 1 && absl::ascii_isprint(static_cast<unsigned char>(text[0]))) {
      name.push_back(text[0]);
    } else {
      name += "\xEF\xBF\xBD";
    }
    text.remove_prefix(length);
  }
  return name;
}

double MemoryShare(const Worker& worker) {
  if (!Present(worker) || worker.state_bytes_total() <= 0) return kNothing;
  return std::clamp(static_cast<double>(worker.state_bytes_used()) / static_cast<double>(worker.state_bytes_total()),
                    0.0, 1.0);
}

Terminal::Style MemoryStyle(double share) {
  if (share >= kAlmostFull) return Terminal::Style::kRed;
  return share >= kRatherFull ? Terminal::Style::kYellow : Terminal::Style::kGreen;
}

}  // namespace baton::cli
