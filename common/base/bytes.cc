#include "common/base/bytes.h"

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/strip.h"

namespace baton {

absl::StatusOr<int64_t> ParseBytes(absl::string_view text) {
  const absl::Status bad = absl::InvalidArgumentError(
      absl::StrCat("\"", text, "\" is not a number of bytes; write for example 512MiB, 2GiB or 1.5G"));
  absl::string_view rest = absl::StripAsciiWhitespace(text);
  size_t digits = 0;
  while (digits < rest.size() && (absl::ascii_isdigit(rest[digits]) || rest[digits] == '.')) ++digits;
  double value = 0;
  if (digits == 0 || !absl::SimpleAtod(rest.substr(0, digits), &value)) return bad;

  std::string suffix = absl::AsciiStrToLower(absl::StripLeadingAsciiWhitespace(rest.substr(digits)));
  double unit = 1;
  if (!suffix.empty() && suffix != "b") {
    constexpr absl::string_view kUnits = "kmgt";
    const size_t power = kUnits.find(suffix[0]);
    if (power == absl::string_view::npos) return bad;
    const std::string tail = suffix.substr(1);
    if (!tail.empty() && tail != "b" && tail != "ib") return bad;
    unit = std::pow(1024.0, static_cast<double>(power + 1));
  }
  const double bytes = value * unit;
  if (!(bytes >= 0 && bytes < 9.0e18)) return bad;
  return static_cast<int64_t>(bytes);
}

std::string FormatBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB"};
  if (bytes < 1024) return absl::StrCat(bytes, " B");
  double value = static_cast<double>(bytes);
  int unit = -1;
  while (value >= 1024 && unit < 3) {
    value /= 1024;
    ++unit;
  }
  return absl::StrFormat("%.1f %s", value, kUnits[unit]);
}

}  // namespace baton
