#include "tests/golden/checks.h"

#include "common/base/status_macros.h"

namespace baton {

absl::StatusOr<GoldenReport> CheckGolden(const std::string& directory, const std::string& golden_path,
                                         const ModelOptions& options) {
  GoldenReport report;
  report.directory = directory;
  report.golden = golden_path;
  report.weights = options.weights;
  BATON_ASSIGN_OR_RETURN(std::unique_ptr<Model> model, Model::Load(directory, options));
  BATON_ASSIGN_OR_RETURN(GoldenFile golden, GoldenFile::Open(golden_path, model->config()));
  BATON_RETURN_IF_ERROR(CheckReference(*model, golden, &report.results));
  BATON_RETURN_IF_ERROR(CheckVariants(directory, options, *model, golden, &report.results));
  BATON_RETURN_IF_ERROR(CheckInvariance(*model, golden, &report.results));
  return report;
}

}  // namespace baton
