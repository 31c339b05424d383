// baton pack: packs a checkpoint's weights into the cache ahead of the first start of a worker. Works offline.
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/bytes.h"
#include "common/base/status_macros.h"
#include "common/base/thread_pool.h"
#include "common/model/checkpoint.h"
#include "common/model/weight_cache.h"
#include "common/model/weights.h"
#include "common/rpc/engine_flags.h"
#include "gateway/cli/commands.h"
#include "gateway/cli/format.h"
#include "gateway/cli/json_output.h"
#include "gateway/cli/progress_bar.h"

namespace baton::cli {
namespace {

struct PackFlags {
  std::string directory;
  EngineFlags engine;
};

// What can't be used is an error here, where workers go on without a cache.
absl::StatusOr<std::string> CacheDirectory(const EngineFlags& flags) {
  std::string directory = flags.CacheDirectory();
  if (!directory.empty()) return directory;
  return absl::InvalidArgumentError(flags.cache_dir.empty()
                                        ? "neither XDG_CACHE_HOME nor HOME is set: give --cache-dir DIR"
                                        : "packing into no cache does nothing: give --cache-dir a directory");
}

absl::Status Pack(const PackFlags& flags, Session& session) {
  if (flags.directory.empty()) {
    return absl::InvalidArgumentError("--model DIR is required: the checkpoint to pack");
  }
  BATON_ASSIGN_OR_RETURN(const std::string cache_directory, CacheDirectory(flags.engine));
  BATON_ASSIGN_OR_RETURN(const Checkpoint checkpoint, Checkpoint::Open(flags.directory));
  BATON_ASSIGN_OR_RETURN(const WeightPlan plan, PlanWeights(checkpoint, flags.engine.weights));
  Terminal& terminal = session.terminal();
  const std::string precision(WeightPrecisionName(flags.engine.weights));
  if (plan.sources.empty()) {
    if (session.options.json) return terminal.Out(JsonLine({{"path", nullptr}, {"packed", false}}));
    return terminal.Out(
        absl::StrCat("nothing to pack: ", flags.directory, " has ", precision, " weights, used where they are\n"));
  }

  ProgressBar bar(terminal);
  const bool show_bar = session.interactive();
  bool packed = false;
  LoadObserver observer;
  observer.notice = [&](const LoadNotice& notice) {
    packed |= notice.event == "packing_weights";
    if (show_bar) bar.Remove();
    if (!session.options.json) terminal.Note(notice.text + "\n");
  };
  if (show_bar) observer.progress = [&](int64_t done, int64_t total) { bar.Update(done, total); };
  // A second run writes it anew.
  session.interrupt().SetLastWords("\nbaton: interrupted; nothing was packed\n");
  ThreadPool pool({.threads = flags.engine.threads});
  WeightCache cache(cache_directory, checkpoint.ContentHash(), checkpoint.WeightFiles(), plan.sources, observer);
  const absl::StatusOr<MappedFile> file = cache.Provide(pool);
  session.interrupt().SetLastWords("");
  if (show_bar) bar.Remove();
  BATON_RETURN_IF_ERROR(file.status());

  const auto bytes = static_cast<int64_t>(file->size());
  if (session.options.json) {
    return terminal.Out(
        JsonLine({{"path", cache.path()}, {"weights", precision}, {"bytes", bytes}, {"packed", packed}}));
  }
  return terminal.Out(
      absl::StrCat(cache.path(), ": ", precision, ", ", FormatBytes(bytes), packed ? "" : ", was there already", "\n"));
}

}  // namespace

Command AddPack(CLI::App& app, Session& session) {
  auto flags = std::make_shared<PackFlags>();
  CLI::App* command = app.add_subcommand("pack", "Pack a checkpoint's weights ahead of a worker's first start");
  // Hides the global option, which names a served model.
  command->add_option("--model", flags->directory, "Hugging Face checkpoint directory")->type_name("DIR");
  AddPackingFlags(*command, &flags->engine);
  command->add_option("--threads", flags->engine.threads, "0: one per CPU")
      ->type_name("N")
      ->check(CLI::Range(0, 1024).description(""))
      ->capture_default_str();
  return {command, [flags, &session] { return Pack(*flags, session); }};
}

}  // namespace baton::cli
