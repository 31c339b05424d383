// quantisation_table: what each precision of the weights costs in accuracy, as the table of bench/RESULTS.md, or
// --json.
#include <CLI/CLI.hpp>
#include <iostream>
#include <nlohmann/json.hpp>
#include <string>

#include "absl/strings/str_format.h"
#include "common/base/status_macros.h"
#include "tests/golden/quantisation_error.h"

namespace baton {
namespace {

constexpr WeightPrecision kPrecisions[] = {WeightPrecision::kF32, WeightPrecision::kBf16, WeightPrecision::kInt8,
                                           WeightPrecision::kInt8A8, WeightPrecision::kInt4};
constexpr const char* kGoldenModels[] = {"gemma-tiny", "gemma2-tiny", "recurrentgemma-tiny"};
constexpr const char* kTrainedModels[] = {"tiny-gemma2", "tiny-recurrentgemma"};

absl::Status PrintGolden(bool as_json, nlohmann::json* json) {
  if (!as_json) {
    std::cout << "| golden model | weights | max logit error | mean | mean KL | max KL | same top token |\n"
                 "|---|---|---|---|---|---|---|\n";
  }
  for (const char* name : kGoldenModels) {
    for (const WeightPrecision weights : kPrecisions) {
      if (weights == WeightPrecision::kF32) continue;  // compared with itself
      BATON_ASSIGN_OR_RETURN(const GoldenError error, MeasureGoldenError(name, weights));
      const std::string precision(WeightPrecisionName(weights));
      (*json)["golden"].push_back({{"model", name},
                                   {"weights", precision},
                                   {"positions", error.positions},
                                   {"max_logit", error.max_logit},
                                   {"mean_logit", error.mean_logit},
                                   {"mean_kl", error.mean_kl},
                                   {"max_kl", error.max_kl},
                                   {"same_top", error.same_top}});
      if (as_json) continue;
      std::cout << absl::StrFormat("| %s | %s | %.3f | %.4f | %.2g | %.2g | %.1f %% |\n", name, precision,
                                   error.max_logit, error.mean_logit, error.mean_kl, error.max_kl,
                                   100 * error.same_top);
    }
  }
  return absl::OkStatus();
}

absl::Status PrintTrained(bool as_json, nlohmann::json* json) {
  if (!as_json) {
    std::cout << "\n| trained model | weights | bytes | perplexity | against float32 | same answers |\n"
                 "|---|---|---|---|---|---|\n";
  }
  for (const char* name : kTrainedModels) {
    for (const WeightPrecision weights : kPrecisions) {
      BATON_ASSIGN_OR_RETURN(const TrainedError error, MeasureTrainedError(name, weights));
      const std::string precision(WeightPrecisionName(weights));
      (*json)["trained"].push_back({{"model", name},
                                    {"weights", precision},
                                    {"weight_bytes", error.weight_bytes},
                                    {"perplexity", error.perplexity},
                                    {"stored_perplexity", error.stored_perplexity},
                                    {"exact", error.exact},
                                    {"prompts", error.prompts}});
      if (as_json) continue;
      std::cout << absl::StrFormat("| %s | %s | %.2f MiB | %.3f | %+.2f %% | %d of %d |\n", name, precision,
                                   static_cast<double>(error.weight_bytes) / (1 << 20), error.perplexity,
                                   100 * (error.perplexity / error.stored_perplexity - 1), error.exact, error.prompts);
    }
  }
  return absl::OkStatus();
}

}  // namespace
}  // namespace baton

int main(int argc, char** argv) {
  CLI::App app{"What each precision of the weights costs in accuracy."};
  bool as_json = false;
  app.add_flag("--json", as_json, "print JSON instead of tables");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  nlohmann::json json;
  absl::Status status = baton::PrintGolden(as_json, &json);
  if (status.ok()) status = baton::PrintTrained(as_json, &json);
  if (!status.ok()) {
    std::cerr << "quantisation_table: " << status.message() << "\n";
    return 1;
  }
  if (as_json) std::cout << json.dump(2) << "\n";
  return 0;
}
