// golden_check MODEL_DIR GOLDEN.safetensors: does this engine compute what the reference implementation computed?
// Exit code 0: every check passed; 1: one did not, or could not run; 2: bad usage.
#include <CLI/CLI.hpp>
#include <iostream>
#include <string>

#include "common/base/version.h"
#include "common/rpc/engine_flags.h"
#include "tests/golden/checks.h"

int main(int argc, char** argv) {
  CLI::App app{
      "Runs a checkpoint against a golden file: logits, greedy tokens, hidden states and inference state, whole, "
      "chunked and batched."};
  std::string directory;
  std::string golden;
  baton::EngineFlags flags;
  flags.cache_dir = "none";  // files of tests, for the most part
  bool json = false;
  app.set_version_flag("--version", std::string("golden_check ") + baton::kVersion);
  app.add_option("MODEL_DIR", directory, "Hugging Face checkpoint directory")->required();
  app.add_option("GOLDEN", golden, "the reference's results, as safetensors")->required();
  baton::AddEngineFlags(app, &flags);
  app.add_flag("--json", json, "print JSON instead of a table");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }

  baton::ApplyIsa(flags);
  const absl::StatusOr<baton::GoldenReport> report = baton::CheckGolden(directory, golden, flags.ToModelOptions());
  if (!report.ok()) {
    std::cerr << "golden_check: " << report.status().message() << "\n";
    return 1;
  }
  std::cout << (json ? baton::ReportJson(*report) : baton::ReportTable(*report));
  return baton::AllPassed(report->results) ? 0 : 1;
}
