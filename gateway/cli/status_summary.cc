#include "gateway/cli/status_summary.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "gateway/cli/format.h"

namespace baton::cli {
namespace {

using Style = Terminal::Style;

constexpr size_t kLabelColumns = 12;

// What belongs to one model, or to all.
struct Figures {
  int64_t running = 0;
  int64_t queued = 0;
  // Null: the gateway is older than this program and does not tell.
  const v1::Activity* recent = nullptr;
  const v1::Activity* since_start = nullptr;
};

Figures FiguresOf(const v1::GetStatusResponse& response, const std::string& model) {
  if (model.empty()) {
    return {response.running_requests(), response.queued_requests(),
            response.has_recent() ? &response.recent() : nullptr,
            response.has_since_start() ? &response.since_start() : nullptr};
  }
  for (const v1::ModelStatus& status : response.models()) {
    if (status.model() != model) continue;
    return {status.running_requests(), status.queued_requests(), status.has_recent() ? &status.recent() : nullptr,
            status.has_since_start() ? &status.since_start() : nullptr};
  }
  return {};
}

StyledLine Labelled(const std::string& label) {
  StyledLine line = {{label, Style::kDim}};
  line[0].text.resize(std::max(kLabelColumns, label.size() + 1), ' ');
  return line;
}

// "  name value", the name dim.
void Add(StyledLine* line, const std::string& name, const std::string& value, Style style = Style::kBold) {
  line->push_back({absl::StrCat(line->size() > 1 ? "  " : "", name, name.empty() ? "" : " "), Style::kDim});
  line->push_back({value, style});
}

Style Warns(bool warns, Style style) { return warns ? style : Style::kBold; }

std::string OfLimit(int64_t count, int64_t limit) {
  return limit > 0 ? absl::StrCat(FormatCount(count), " of ", FormatCount(limit)) : FormatCount(count);
}

std::string WindowLabel(double seconds) { return absl::StrFormat("last %.0f s", std::clamp(seconds, 0.0, 9999.0)); }

void AddLatency(StyledLine* line, const std::string& name, const v1::LatencySummary& latency) {
  if (latency.count() <= 0) return Add(line, name, "-");
  Add(line, absl::StrCat(name, " p50"), FormatSeconds(latency.p50_seconds()));
  Add(line, "p99", FormatSeconds(latency.p99_seconds()));
}

double Requests(const v1::Activity& activity) {
  double requests = 0;
  for (const int64_t ended :
       {activity.completed(), activity.cancelled(), activity.refused(), activity.rejected(), activity.failed()}) {
    requests += static_cast<double>(ended);
  }
  return requests;
}

// How requests ended, as counts or, with `seconds`, as rates.
void AddEnds(StyledLine* line, const v1::Activity& activity, double seconds) {
  const auto add = [&](const char* name, int64_t count, Style warning) {
    const std::string value =
        seconds > 0 ? FormatRate(static_cast<double>(count) / seconds) : FormatCount(std::max<int64_t>(count, 0));
    Add(line, name, value, Warns(count > 0, warning));
  };
  // What a narrow screen cuts off matters least.
  add("ok", activity.completed(), Style::kBold);
  add("failed", activity.failed(), Style::kRed);
  add("refused", activity.refused(), Style::kYellow);
  add("rejected", activity.rejected(), Style::kBold);
  add("cancelled", activity.cancelled(), Style::kBold);
}

}  // namespace

std::string PaintLine(const StyledLine& line, int width, const Terminal& terminal) {
  std::string painted;
  size_t left = width > 0 ? static_cast<size_t>(width) : std::string::npos;
  for (const StyledText& piece : line) {
    const std::string text = FirstColumns(piece.text, left);
    left -= Columns(text);
    painted += terminal.Paint(piece.style, text);
  }
  return painted;
}

std::vector<StyledLine> SummarizeStatus(const v1::GetStatusResponse& response, const StatusView& view) {
  const Figures figures = FiguresOf(response, view.model);
  std::vector<StyledLine> lines;

  StyledLine now = Labelled("now");
  Add(&now, "running", OfLimit(figures.running, view.model.empty() ? response.running_requests_limit() : 0));
  Add(&now, "queued", OfLimit(figures.queued, view.model.empty() ? response.queued_requests_limit() : 0),
      Warns(figures.queued > 0, Style::kYellow));
  if (view.model.empty() && response.queued_tokens_limit() > 0) {
    Add(&now, "queued tokens", OfLimit(response.queued_tokens(), response.queued_tokens_limit()));
  }
  lines.push_back(std::move(now));

  if (figures.recent != nullptr) {
    const v1::Activity& recent = *figures.recent;
    const double seconds = std::max(recent.seconds(), 1e-3);
    StyledLine requests = Labelled(WindowLabel(recent.seconds()));
    Add(&requests, "req/s", FormatRate(Requests(recent) / seconds));
    AddEnds(&requests, recent, seconds);
    StyledLine latencies = Labelled("");
    AddLatency(&latencies, "TTFT", recent.time_to_first_token());
    AddLatency(&latencies, "  inter-token", recent.inter_token());
    StyledLine tokens = Labelled("");
    Add(&tokens, "tokens/s in", FormatRate(static_cast<double>(recent.prompt_tokens()) / seconds));
    Add(&tokens, "out", FormatRate(static_cast<double>(recent.output_tokens()) / seconds));
    Add(&tokens, "  recovered", FormatCount(recent.resumes()), Warns(recent.resumes() > 0, Style::kYellow));
    Add(&tokens, "retried", FormatCount(recent.retries()), Warns(recent.retries() > 0, Style::kYellow));
    lines.push_back(std::move(requests));
    lines.push_back(std::move(tokens));
    lines.push_back(std::move(latencies));
  }
  if (figures.since_start != nullptr) {
    StyledLine totals = Labelled("since start");
    AddEnds(&totals, *figures.since_start, /*seconds=*/0);
    Add(&totals, "recovered", FormatCount(figures.since_start->resumes()));
    lines.push_back(std::move(totals));
  }
  return lines;
}

}  // namespace baton::cli
