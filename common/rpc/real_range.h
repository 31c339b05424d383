// A check for flags that are real numbers: as CLI::Range, which lets "nan" through.
//
//   app.add_option("--grace", seconds, "...")->check(RealRange(0, 86400));
#pragma once

#include <string>

#include <CLI/CLI.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace baton {

// Both bounds are allowed.
inline CLI::Validator RealRange(double low, double high) {
  const std::string range = absl::StrCat(low, " to ", high);
  return CLI::Validator(
      [low, high, range](const std::string& text) {
        double value = 0;
        const bool inside = absl::SimpleAtod(text, &value) && value >= low && value <= high;
        return inside ? std::string() : absl::StrCat("\"", text, "\" is not a number from ", range);
      },
      absl::StrCat("FLOAT in [", low, " - ", high, "]"));
}

}  // namespace baton
