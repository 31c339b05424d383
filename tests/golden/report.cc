// A report as a table and as JSON.
#include <cmath>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "tests/golden/checks.h"

namespace baton {
namespace {

std::string Limit(double limit) { return std::isinf(limit) ? "" : absl::StrFormat("%.2g", limit); }

// The limits of a bound, as in "max 0.69 rms 0.2".
std::string BoundText(const Bound& bound) {
  std::string text;
  const auto add = [&](absl::string_view what, double limit) {
    if (!std::isinf(limit)) absl::StrAppend(&text, text.empty() ? "" : ", ", what, " ", Limit(limit));
  };
  add("max", bound.max_abs);
  add("rms", bound.rms);
  add("relative rms", bound.relative_rms);
  return text;
}

// JSON has no infinity: a difference that is one becomes null, like a limit that is not set.
nlohmann::json Number(double value) { return std::isfinite(value) ? nlohmann::json(value) : nlohmann::json(nullptr); }

nlohmann::json BoundJson(const Bound& bound) {
  return {{"max", Number(bound.max_abs)}, {"rms", Number(bound.rms)}, {"relative_rms", Number(bound.relative_rms)}};
}

int64_t Failures(const GoldenReport& report) {
  int64_t failures = 0;
  for (const CheckResult& result : report.results) failures += result.passed ? 0 : 1;
  return failures;
}

}  // namespace

std::string ReportTable(const GoldenReport& report) {
  const Bounds& bounds = BoundsFor(report.weights);
  std::string text = absl::StrFormat(
      "%s against %s, weights %s\nbounds: %s; greedy tokens where the margin is >= %g\n\n", report.directory,
      report.golden, WeightPrecisionName(report.weights), bounds.reason, bounds.margin);
  absl::StrAppendFormat(&text, "%-26s %9s %10s %10s %10s  %-28s %s\n", "check", "values", "max diff", "rms", "relative",
                        "bound", "result");
  for (const CheckResult& result : report.results) {
    absl::StrAppendFormat(&text, "%-26s %9d %10.2g %10.2g %10.2g  %-28s %s\n", result.name, result.values,
                          result.max_abs, result.rms, result.relative_rms, BoundText(result.bound),
                          result.passed ? "pass" : "FAIL");
  }
  absl::StrAppendFormat(&text, "\n%d checks, %d failed\n", report.results.size(), Failures(report));
  return text;
}

std::string ReportJson(const GoldenReport& report) {
  const Bounds& bounds = BoundsFor(report.weights);
  nlohmann::json json;
  json["model"] = report.directory;
  json["golden"] = report.golden;
  json["weights"] = std::string(WeightPrecisionName(report.weights));
  json["passed"] = AllPassed(report.results);
  json["failed_checks"] = Failures(report);
  json["bounds"] = {{"reason", std::string(bounds.reason)},
                    {"prompt_logits", BoundJson(bounds.prompt_logits)},
                    {"every_position_logits", BoundJson(bounds.every_position_logits)},
                    {"step_logits", BoundJson(bounds.step_logits)},
                    {"long_logits", BoundJson(bounds.long_logits)},
                    {"hidden", BoundJson(bounds.hidden)},
                    {"state", BoundJson(bounds.state)},
                    {"greedy_margin", Number(bounds.margin)},
                    {"invariance", bounds.invariance},
                    {"long_invariance", bounds.long_invariance}};
  json["checks"] = nlohmann::json::array();
  for (const CheckResult& result : report.results) {
    json["checks"].push_back({{"name", result.name},
                              {"values", result.values},
                              {"max", Number(result.max_abs)},
                              {"rms", Number(result.rms)},
                              {"relative_rms", Number(result.relative_rms)},
                              {"bound", BoundJson(result.bound)},
                              {"passed", result.passed}});
  }
  return json.dump(2, ' ', false, nlohmann::json::error_handler_t::replace) + "\n";
}

}  // namespace baton
