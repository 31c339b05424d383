#include "bench/service_times.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "bench/median.h"
#include "common/base/status_macros.h"
#include "common/model/json_object.h"

namespace baton {
namespace {

using nlohmann::json;

// A step takes some time, whatever an extrapolation says.
constexpr double kLeastStepSeconds = 1e-6;
constexpr double kMostTokens = 1e9;
constexpr double kMostSeconds = 1e6;

absl::Status Bad(absl::string_view path, absl::string_view what) {
  return absl::InvalidArgumentError(
      absl::StrCat(std::string(path), ": ", std::string(what), "; expected what bench_engine --json writes"));
}

// A number of (0, most] under `key`; 0 when there is none.
double Positive(const json& object, const char* key, double most) {
  const auto found = object.find(key);
  if (found == object.end() || !found->is_number()) return 0;
  const double value = found->get<double>();
  return value > 0 && value <= most ? value : 0;
}

// Median of the passes; 0 when they are none.
double MedianSeconds(const json& result) {
  const auto found = result.find("seconds");
  if (found == result.end() || !found->is_array() || found->empty()) return 0;
  std::vector<double> seconds;
  for (const json& pass : *found) {
    if (!pass.is_number()) return 0;
    const double value = pass.get<double>();
    if (!(value > 0 && value <= kMostSeconds)) return 0;
    seconds.push_back(value);
  }
  return Median(std::move(seconds));
}

std::map<double, PiecewiseLinear> ByBatch(const std::map<double, std::map<double, double>>& step_seconds) {
  std::map<double, PiecewiseLinear> out;
  for (const auto& [batch, by_context] : step_seconds) {
    out.emplace(batch, PiecewiseLinear(by_context, kLeastStepSeconds));
  }
  return out;
}

}  // namespace

PiecewiseLinear::PiecewiseLinear(std::map<double, double> points, double least)
    : points_(std::move(points)), least_(least) {
  BATON_CHECK(!points_.empty());
}

double PiecewiseLinear::At(double x) const {
  if (points_.size() == 1) return std::max(least_, points_.begin()->second);
  auto right = points_.lower_bound(x);
  if (right == points_.begin()) ++right;
  if (right == points_.end()) --right;
  const auto left = std::prev(right);
  const double slope = (right->second - left->second) / (right->first - left->first);
  return std::max(least_, left->second + slope * (x - left->first));
}

ServiceTimes::ServiceTimes(std::map<double, double> prompt_seconds,
                           const std::map<double, std::map<double, double>>& step_seconds)
    : prompt_seconds_([&] {
        // One measured length: proportional.
        if (prompt_seconds.size() == 1) prompt_seconds[0] = 0;
        return PiecewiseLinear(std::move(prompt_seconds));
      }()),
      step_seconds_(ByBatch(step_seconds)) {
  BATON_CHECK(!step_seconds_.empty());
}

absl::StatusOr<ServiceTimes> ServiceTimes::FromEngineJson(absl::string_view text, absl::string_view path) {
  BATON_ASSIGN_OR_RETURN(const json report, ParseJsonObject(text, path));
  const auto results = report.find("results");
  if (results == report.end() || !results->is_array()) return Bad(path, "no \"results\"");
  std::map<double, double> prompts;
  std::map<double, std::map<double, double>> steps;
  for (const json& result : *results) {
    if (!result.is_object()) return Bad(path, "a result is not an object");
    const auto phase = result.find("phase");
    const double seconds = MedianSeconds(result);
    const double tokens = Positive(result, "tokens", kMostTokens);
    if (phase == result.end() || !phase->is_string() || seconds == 0 || tokens == 0) {
      return Bad(path, "a result without phase, seconds or tokens");
    }
    if (*phase == "prefill") {
      const double prompt = Positive(result, "prompt", kMostTokens);
      if (prompt == 0) return Bad(path, "a prefill result without prompt");
      prompts[prompt] = seconds;
    } else {
      const double batch = Positive(result, "batch", kMostTokens);
      const double context = Positive(result, "context", kMostTokens);
      if (batch == 0 || context == 0) return Bad(path, "a decode result without batch and context");
      steps[batch][context] = seconds * batch / tokens;
    }
  }
  if (prompts.empty()) return Bad(path, "no prefill was measured (--prompt 128,512,2048)");
  if (steps.empty()) return Bad(path, "no decode was measured (--batch 1,8,32)");
  // Noise may make a longer prompt faster than a shorter one, which would give back time.
  double slowest = 0;
  for (auto& [length, seconds] : prompts) slowest = seconds = std::max(seconds, slowest);
  return ServiceTimes(std::move(prompts), std::move(steps));
}

double ServiceTimes::Prefill(double begin, double end) const {
  BATON_CHECK(begin < end);
  const double before = begin > 0 ? prompt_seconds_.At(begin) : 0;
  return std::max(kLeastStepSeconds, prompt_seconds_.At(end) - before);
}

double ServiceTimes::DecodeStep(double batch, double context) const {
  std::map<double, double> points;
  for (const auto& [size, by_context] : step_seconds_) points[size] = by_context.At(context);
  return PiecewiseLinear(std::move(points), kLeastStepSeconds).At(batch);
}

}  // namespace baton
