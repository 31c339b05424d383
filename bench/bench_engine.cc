// bench_engine: prefill and decode speed of a model directory, beside what this machine allows.
//
//   bench_engine --model deploy/models/tiny-gemma2 --batch 1,8,32 --prompt 128,512 --json run.json
//
// The machine's limits are measured in the same run, before and after: they drift on shared machines, and a figure
// without its limit says little.
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include <CLI/CLI.hpp>

#include "bench/command_line.h"
#include "bench/engine_bench.h"
#include "bench/engine_report.h"
#include "bench/figures_file.h"
#include "bench/machine_limits.h"
#include "common/base/cpu.h"
#include "common/base/status_macros.h"
#include "common/base/version.h"
#include "common/compute/blas_core.h"
#include "common/model/model.h"
#include "common/rpc/engine_flags.h"

namespace baton {
namespace {

// The machine is measured around every timed pass, so each of its figures must be quick.
constexpr double kSecondsPerLimit = 0.12;

struct Flags {
  EngineRun run;
  EngineFlags engine;
  std::string cpus;
  std::string json_file;
};

void AddFlags(CLI::App& app, Flags& flags) {
  EngineBenchOptions& options = flags.run.options;
  constexpr int kMost = 1 << 20;
  app.set_version_flag("--version", kVersion);
  app.add_option("--model", flags.run.directory, "Hugging Face checkpoint directory")->required();
  AddEngineFlags(app, &flags.engine);
  app.add_option("--cpus", flags.cpus, "run on these CPUs only, e.g. 0-3,8");
  app.add_option("--batch", options.batches, "batch sizes of decode, e.g. 1,8,32; 0: no decode")
      ->delimiter(',')
      ->check(CLI::Range(0, 4096))
      ->capture_default_str();
  app.add_option("--prompt", options.prompts, "prompt lengths of prefill, e.g. 128,512; 0: no prefill")
      ->delimiter(',')
      ->check(CLI::Range(0, kMost))
      ->capture_default_str();
  app.add_option("--context", options.contexts,
                 "tokens before the first decode step; of several, e.g. 128,8192, the steps are timed in turn")
      ->delimiter(',')
      ->check(CLI::Range(1, kMost))
      ->capture_default_str();
  app.add_option("--decode-steps", options.decode_steps, "decode steps of one timed pass")
      ->check(CLI::Range(1, kMost))
      ->capture_default_str();
  app.add_option("--chunk-tokens", options.chunk_tokens, "longest run of one forward call")
      ->check(CLI::Range(1, kMost))
      ->capture_default_str();
  app.add_option("--repeat", options.repeats, "timed passes of each figure; the median counts")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--json", flags.json_file, "also write all figures to this file");
}

void Print(const std::string& text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);  // figures take long: each is shown when it is there
}

// For every batch size, how the longer contexts compare with the first one.
void PrintContextRatios(const std::vector<EngineResult>& results) {
  const EngineResult* first = nullptr;
  for (const EngineResult& result : results) {
    if (result.phase != EngineResult::Phase::kDecode) continue;
    if (first == nullptr || first->batch != result.batch) {
      first = &result;
    } else {
      Print(ContextLine(result, *first));
    }
  }
}

absl::Status Run(Flags& flags) {
  EngineRun& run = flags.run;
  std::erase(run.options.batches, 0);
  std::erase(run.options.prompts, 0);
  if (!flags.cpus.empty()) {
    BATON_ASSIGN_OR_RETURN(const std::vector<int> cpus, ParseCpuList(flags.cpus));
    BATON_RETURN_IF_ERROR(PinProcess(cpus));
  }
  ApplyIsa(flags.engine);
  ModelOptions model_options = flags.engine.ToModelOptions();
  model_options.observer.notice = [](const LoadNotice& notice) { std::fprintf(stderr, "%s\n", notice.text.c_str()); };
  BATON_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, Model::Load(run.directory, model_options));
  BATON_RETURN_IF_ERROR(CheckEngineBench(*model, run.options));
  BATON_RETURN_IF_ERROR(CheckFiguresFile(flags.json_file));

  Print(ModelLine(run, *model));
  MachineMeter meter(
      {.threads = flags.engine.threads,
       // What codes are multiplied as.
       .precision = model->weights() == WeightPrecision::kInt8A8 ? WeightPrecision::kInt8A8 : WeightPrecision::kBf16,
       .seconds_per_figure = kSecondsPerLimit});
  run.before = meter.last();
  Print(LimitsLine("before", run.before));
  Print(CacheNote(run, *model));
  Print(TableHeader());
  BATON_RETURN_IF_ERROR(RunEngineBench(*model, run.options, meter, [&](const EngineResult& result) {
    Print(TableLine(result, model->compute()));
    run.results.push_back(result);
  }));
  PrintContextRatios(run.results);
  run.after = meter.last();
  Print(LimitsLine("after", run.after));
  return WriteFigures(flags.json_file, ReportJson(run, *model));
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("Prefill and decode speed of a model directory, beside what this machine allows.", "bench_engine");
  AddFlags(app, flags);
  if (const absl::optional<int> code = ParseCommandLine(app, argc, argv)) return *code;
  if (flags.engine.weights == WeightPrecision::kF32) {
    const BlasCoreChoice blas = RestartForBlas(argv);
    if (!blas.problem.empty())
      std::fprintf(stderr, "slow OpenBLAS core %s: %s\n", blas.core.c_str(), blas.problem.c_str());
  }
  return EndProgram(app, Run(flags));
}

}  // namespace
}  // namespace baton

int main(int argc, char** argv) { return baton::RunProgram(&baton::Main, argc, argv); }
