// The checks of one model against one golden file.
//
//   BATON_ASSIGN_OR_RETURN(GoldenReport report, CheckGolden(directory, golden_path, {.weights =
//   WeightPrecision::kF32})); AllPassed(report.results)
#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "common/model/model.h"
#include "tests/golden/check_result.h"
#include "tests/golden/golden_file.h"

namespace baton {

struct GoldenReport {
  std::string directory;
  std::string golden;
  WeightPrecision weights = WeightPrecision::kF32;
  std::vector<CheckResult> results;
};

// Errors: whatever keeps the checks from running. Results beyond their bounds are not errors.
absl::StatusOr<GoldenReport> CheckGolden(const std::string& directory, const std::string& golden_path,
                                         const ModelOptions& options);

// The parts of it, in order; each appends its results.
// Logits of prompts and steps, greedy tokens, hidden states, KV, RG-LRU and conv state.
absl::Status CheckReference(Model& model, const GoldenFile& golden, std::vector<CheckResult>* results);
// Documented variants: transformers' window of RecurrentGemma, the bf16 embedding scale of Gemma.
absl::Status CheckVariants(const std::string& directory, const ModelOptions& options, Model& model,
                           const GoldenFile& golden, std::vector<CheckResult>* results);
// Every prompt in chunks of 1, 7, 16 tokens and at once, and in one ragged batch with all others: same logits, same
// state.
absl::Status CheckInvariance(Model& model, const GoldenFile& golden, std::vector<CheckResult>* results);

// For people; for programs.
std::string ReportTable(const GoldenReport& report);
std::string ReportJson(const GoldenReport& report);

}  // namespace baton
