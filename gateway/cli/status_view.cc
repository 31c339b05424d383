#include "gateway/cli/status_view.h"

#include <algorithm>
#include <iterator>
#include <limits>
#include <set>

#include "gateway/cli/keys.h"
#include "gateway/cli/status_columns.h"

namespace baton::cli {
namespace {

constexpr double kIntervals[] = {0.2, 0.5, 1, 2, 5, 10, 30, 60};
constexpr double kWindows[] = {10, 30, 60};

// The next one up, or down, of what can be chosen; `now` where there is none.
double Longer(double now) {
  const double* const next = std::upper_bound(std::begin(kIntervals), std::end(kIntervals), now);
  return next == std::end(kIntervals) ? now : *next;
}
double Shorter(double now) {
  const double* const next = std::lower_bound(std::begin(kIntervals), std::end(kIntervals), now);
  return next == std::begin(kIntervals) ? now : *(next - 1);
}
double NextWindow(double now) {
  const double* const next = std::upper_bound(std::begin(kWindows), std::end(kWindows), now);
  return next == std::end(kWindows) ? kWindows[0] : *next;
}

// All, then each model in turn.
std::string NextModel(const std::string& now, const v1::GetStatusResponse& response) {
  std::set<std::string> models;
  for (const v1::ModelStatus& model : response.models()) models.insert(model.model());
  for (const v1::WorkerStatus& worker : response.workers()) models.insert(worker.model());
  const auto next = models.upper_bound(now);
  return next == models.end() ? std::string() : *next;
}

}  // namespace

bool StatusView::Obey(int key, const v1::GetStatusResponse& response) {
  const int columns = static_cast<int>(StatusColumns().size());
  switch (key) {
    case 'q':
    case 'Q':
      return false;
    case '?':
    case 'h':
      help = !help;
      return true;
    case ' ':
      paused = !paused;
      return true;
    case 's':
    case '>':
    case kKeyRight:
      sort = (sort + 1) % columns;
      return true;
    case 'S':
    case '<':
    case kKeyLeft:
      sort = (sort + columns - 1) % columns;
      return true;
    case 'r':
      reversed = !reversed;
      return true;
    case 'p':
      role = Role::kPrefill;
      break;
    case 'd':
      role = Role::kDecode;
      break;
    case 'a':
      role = Role::kAll;
      model.clear();
      break;
    case 'm':
      model = NextModel(model, response);
      break;
    case 'w':
      window_seconds = NextWindow(window_seconds);
      return true;
    case '+':
    case '=':
      interval_seconds = Longer(interval_seconds);
      return true;
    case '-':
      interval_seconds = Shorter(interval_seconds);
      return true;
    case kKeyDown:
    case 'j':
      ++first;
      break;
    case kKeyUp:
    case 'k':
      --first;
      break;
    case kKeyPageDown:
      first += page;
      break;
    case kKeyPageUp:
      first -= page;
      break;
    case kKeyHome:
    case 'g':
      first = 0;
      break;
    case kKeyEnd:
    case 'G':
      first = std::numeric_limits<int>::max() / 2;
      break;
    default:
      return true;
  }
  const int last = static_cast<int>(Workers(response).size()) - page;
  first = std::clamp(first, 0, std::max(last, 0));
  return true;
}

std::vector<const v1::WorkerStatus*> StatusView::Workers(const v1::GetStatusResponse& response) const {
  std::vector<const v1::WorkerStatus*> workers;
  for (const v1::WorkerStatus& worker : response.workers()) {
    if (role != Role::kAll && worker.role() != StatusRoleName(role)) continue;
    if (!model.empty() && worker.model() != model) continue;
    workers.push_back(&worker);
  }
  SortWorkers(sort, reversed, &workers);
  return workers;
}

const char* StatusRoleName(StatusView::Role role) {
  switch (role) {
    case StatusView::Role::kAll:
      break;
    case StatusView::Role::kPrefill:
      return "prefill";
    case StatusView::Role::kDecode:
      return "decode";
  }
  return "all";
}

std::vector<std::string> StatusHelp() {
  return {
      "s > right      sort by the next column       S < left   by the one before",
      "r              reverse the order             space      pause and go on",
      "p  d  a        prefill, decode, all workers  m          next model, then all",
      "up down j k    scroll                        page up, page down, home, end",
      "+  -           less often, more often        w          figures of 10, 30, 60 s",
      "?              this help                     q Ctrl-C   leave",
      "",
      "RUN, QUEUE: sequences and requests; QTOKENS: prompt tokens that wait. TOK/S is",
      "the last second's; STEPS/S, BATCH (sequences a step) and CACHED (part of the prompts'",
      "tokens that need not be computed) are of the window. HEARD: since the last report.",
      "MEMORY: of states; SESSIONS and CHECKPOINTS are kept besides while there is room.",
      "PAUSED: failed several requests in a row, and gets no new ones for so long.",
  };
}

}  // namespace baton::cli
