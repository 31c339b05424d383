// baton synth: a checkpoint of any supported shape with weights from a formula. Works offline.
#include <memory>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/bytes.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"
#include "common/model/synth.h"
#include "common/rpc/real_range.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/format.h"
#include "gateway/cli/json_output.h"
#include "gateway/cli/progress_bar.h"

namespace baton::cli {
namespace {

struct SynthFlags {
  bool list_presets = false;
  std::string config;
  std::string dtype = "bf16";
  SynthOptions options;
};

absl::Status ListPresets(Session& session) {
  Terminal& terminal = session.terminal();
  if (session.options.json) {
    Json presets = Json::array();
    for (const SynthPreset& preset : SynthPresets()) {
      presets.push_back(
          {{"name", preset.name}, {"description", preset.description}, {"parameters", preset.parameters}});
    }
    return terminal.Out(JsonLine({{"presets", presets}}));
  }
  Table table;
  table.AddColumn("PRESET");
  table.AddColumn("PARAMETERS", Table::Align::kRight);
  table.AddColumn("BF16 SIZE", Table::Align::kRight);
  table.AddColumn("DESCRIPTION");
  for (const SynthPreset& preset : SynthPresets()) {
    table.AddRow({{preset.name},
                  {FormatCount(preset.parameters)},
                  {FormatBytes(preset.parameters * TensorTypeBytes(TensorType::kBF16))},
                  {preset.description}});
  }
  for (const std::string& line : table.Lines(terminal)) BATON_RETURN_IF_ERROR(terminal.Out(line + "\n"));
  return absl::OkStatus();
}

absl::Status Synth(SynthFlags flags, Session& session) {
  if (flags.list_presets) return ListPresets(session);
  SynthOptions& options = flags.options;
  if (options.preset.empty() == flags.config.empty()) {
    return absl::InvalidArgumentError("give either --preset NAME (--list-presets shows them) or --config FILE");
  }
  if (options.out.empty()) return absl::InvalidArgumentError("--out DIR is required: where to write the checkpoint");
  if (!flags.config.empty()) {
    BATON_ASSIGN_OR_RETURN(options.config_text, ReadFile(flags.config));
    options.config_path = flags.config;
  }
  options.dtype = flags.dtype == "f32" ? TensorType::kF32 : flags.dtype == "f16" ? TensorType::kF16 : TensorType::kBF16;

  Terminal& terminal = session.terminal();
  ProgressBar bar(terminal);
  const bool show_bar = session.interactive();
  if (show_bar) {
    options.progress = [&bar](int64_t done, int64_t total) { bar.Update(done, total); };
  }
  session.interrupt().SetLastWords(
      absl::StrCat("\nbaton: interrupted; ", options.out, " is incomplete: run this again with --force\n"));
  const absl::Time start = absl::Now();
  const absl::StatusOr<SynthSummary> summary = WriteSyntheticCheckpoint(options);
  session.interrupt().SetLastWords("");
  if (show_bar) bar.Remove();
  BATON_RETURN_IF_ERROR(summary.status());

  if (session.options.json) {
    return terminal.Out(JsonLine({{"out", options.out},
                                  {"parameters", summary->parameters},
                                  {"tensor_bytes", summary->tensor_bytes},
                                  {"files", summary->files}}));
  }
  return terminal.Out(absl::StrCat("wrote ", options.out, ": ", FormatCount(summary->parameters), " parameters, ",
                                   FormatBytes(summary->tensor_bytes), " in ",
                                   FormatSeconds(absl::ToDoubleSeconds(absl::Now() - start)), "\n"));
}

}  // namespace

Command AddSynth(CLI::App& app, Session& session) {
  auto flags = std::make_shared<SynthFlags>();
  CLI::App* command =
      app.add_subcommand("synth", "Write a checkpoint of real shape with made-up weights, for tests and benchmarks");
  command->add_flag("--list-presets", flags->list_presets, "Show the presets");
  command->add_option("--preset", flags->options.preset, "Shape of a published model")->type_name("NAME");
  command->add_option("--config", flags->config, "Shape of this config.json")->type_name("FILE");
  command->add_option("--out", flags->options.out, "Directory to write; created when missing")->type_name("DIR");
  command
      ->add_option("--seed", flags->options.seed, "Different seeds, different weights")
      // Conversion to unsigned would wrap.
      ->check(RealRange(0.0, 0x1p64).description(""))
      ->type_name("N")
      ->capture_default_str();
  command->add_option("--dtype", flags->dtype, "bf16, f16 or f32")
      ->type_name("TYPE")
      ->check(CLI::IsMember({"bf16", "f16", "f32"}).description(""))
      ->capture_default_str();
  command
      ->add_option("--tokenizer", flags->options.tokenizer_path,
                   "A tokenizer.model to put in; without one only token ids can be served")
      ->type_name("FILE");
  command->add_option("--threads", flags->options.threads, "0: one per CPU")
      ->type_name("N")
      ->check(CLI::Range(0, 1024).description(""))
      ->capture_default_str();
  command->add_flag("--force", flags->options.force, "Write into a directory that is not empty");
  return {command, [flags, &session] { return Synth(*flags, session); }};
}

}  // namespace baton::cli
