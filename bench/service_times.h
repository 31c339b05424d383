// How long a worker's engine takes for a step, from measurements: what bench_engine wrote with --json.
//
// Prefill: the times of whole prompts give T(n), the seconds for the first n tokens of a prompt, linear between
// measured lengths and beyond them; tokens [a, b) then take T(b) - T(a). Decode: a step of B sequences with a mean of C
// tokens each, linear between measured batches and, where several were measured, contexts.
//
//   BATON_ASSIGN_OR_RETURN(ServiceTimes times, ServiceTimes::FromEngineJson(text, "engine.json"));
//   times.Prefill(512, 1024); times.DecodeStep(8, 300);
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace baton {

// Linear between points, and beyond them as between the nearest two (one point: constant). Never below `least`.
class PiecewiseLinear {
 public:
  // `points`: x to y, not empty.
  explicit PiecewiseLinear(std::map<double, double> points, double least = 0);
  double At(double x) const;

 private:
  std::map<double, double> points_;
  double least_;
};

class ServiceTimes {
 public:
  // `prompt_seconds`: by length; `step_seconds`: by batch size, then context. Neither is empty, nor is any batch of the
  // latter.
  ServiceTimes(std::map<double, double> prompt_seconds, const std::map<double, std::map<double, double>>& step_seconds);
  // INVALID_ARGUMENT naming `path` when it is no such file, or lacks a phase.
  static absl::StatusOr<ServiceTimes> FromEngineJson(absl::string_view text, absl::string_view path);

  // Seconds for tokens [begin, end) of one prompt. begin < end.
  double Prefill(double begin, double end) const;
  // One step of `batch` sequences whose contexts have `context` tokens on average.
  double DecodeStep(double batch, double context) const;

 private:
  PiecewiseLinear prompt_seconds_;
  std::map<double, PiecewiseLinear> step_seconds_;
};

}  // namespace baton
