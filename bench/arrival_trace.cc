#include "bench/arrival_trace.h"

#include <cmath>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "bench/length_distribution.h"

namespace baton {
namespace {

constexpr char kHeader[] = "seconds,prompt_tokens,output_tokens";
constexpr double kMostSeconds = 1e9;

bool ParseLength(absl::string_view text, int64_t* length) {
  return absl::SimpleAtoi(text, length) && *length >= 1 && *length <= LengthDistribution::kMaxLength;
}

}  // namespace

absl::StatusOr<Workload> ParseArrivalTrace(absl::string_view text, absl::string_view path) {
  Workload workload;
  double first = 0;
  int64_t number = 0;
  const auto bad = [&](absl::string_view what) {
    return absl::InvalidArgumentError(
        absl::StrCat(std::string(path), ", line ", number, ": ", std::string(what), "; expected ", kHeader));
  };
  for (absl::string_view line : absl::StrSplit(text, '\n')) {
    ++number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty() || (number == 1 && line == kHeader)) continue;
    if (workload.items.size() == kMaxWorkItems) return bad(absl::StrCat("more than ", kMaxWorkItems, " requests"));
    const std::vector<absl::string_view> cells = absl::StrSplit(line, ',');
    WorkItem item;
    if (cells.size() != 3) return bad("not three values");
    if (!absl::SimpleAtod(cells[0], &item.arrival) || !(std::abs(item.arrival) <= kMostSeconds)) {
      return bad("the first value is no time");
    }
    if (!ParseLength(cells[1], &item.prompt_tokens) || !ParseLength(cells[2], &item.output_tokens)) {
      return bad(absl::StrCat("lengths must be from 1 to ", LengthDistribution::kMaxLength));
    }
    if (workload.items.empty()) first = item.arrival;
    item.arrival -= first;
    if (!workload.items.empty() && item.arrival < workload.items.back().arrival) {
      return bad("it arrived before the line above");
    }
    item.index = static_cast<int64_t>(workload.items.size());
    item.measured = true;
    workload.items.push_back(item);
  }
  if (workload.items.empty()) return absl::InvalidArgumentError(absl::StrCat(std::string(path), ": no requests in it"));
  workload.by_count = true;
  workload.measure_end = workload.items.back().arrival;
  return workload;
}

}  // namespace baton
