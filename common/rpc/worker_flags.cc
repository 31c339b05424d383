#include "common/rpc/worker_flags.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/base/bytes.h"
#include "common/base/cpu.h"
#include "common/base/host_port.h"
#include "common/base/machine_memory.h"
#include "common/base/status_macros.h"
#include "common/base/version.h"
#include "common/observe/log.h"
#include "common/rpc/command_line.h"
#include "common/rpc/real_range.h"
#include "common/rpc/shutdown_signal.h"

namespace baton {
namespace {

constexpr double kMaxGraceSeconds = 86400;
constexpr size_t kMaxModelNameBytes = 128;
// Checkpoints below this load in a moment and show no progress.
constexpr int64_t kQuietLoadBytes = int64_t{256} << 20;
constexpr absl::Duration kTerminalProgressInterval = absl::Milliseconds(100);
constexpr absl::Duration kLogProgressInterval = absl::Seconds(5);

// Shows how far loading is, from the callback of Model::Load.
class LoadProgress {
 public:
  explicit LoadProgress(std::string name) : name_(std::move(name)), terminal_(isatty(STDERR_FILENO) == 1) {}
  ~LoadProgress() { RemoveLine(); }

  void Show(const LoadNotice& notice) {
    RemoveLine();
    const bool warning = notice.severity == LoadNotice::Severity::kWarning;
    Log(warning ? Severity::kWarning : Severity::kInfo, notice.event).With("message", notice.text);
  }

  void Update(int64_t done, int64_t total) {
    if (total < kQuietLoadBytes) return;
    const absl::Time now = absl::Now();
    const absl::Duration interval = terminal_ ? kTerminalProgressInterval : kLogProgressInterval;
    if (now - last_shown_ < interval) return;
    last_shown_ = now;
    const int percent = static_cast<int>(100.0 * static_cast<double>(done) / static_cast<double>(total));
    if (!terminal_) {
      Log(Severity::kInfo, "model_loading").With("model", name_).With("percent", percent).With("bytes", total);
      return;
    }
    line_shown_ = true;
    const std::string line = absl::StrFormat("\r\033[Kloading %s: %d%% of %s", name_, percent, FormatBytes(total));
    std::fputs(line.c_str(), stderr);
  }

 private:
  void RemoveLine() {
    if (std::exchange(line_shown_, false)) std::fputs("\r\033[K", stderr);
  }

  const std::string name_;
  const bool terminal_;
  bool line_shown_ = false;
  absl::Time last_shown_ = absl::Now();
};

}  // namespace

void AddWorkerFlags(CLI::App& app, WorkerFlags* flags) {
  app.set_version_flag("--version", std::string(kVersion), "Print the version and exit");
  app.add_option("--model", flags->model, "Hugging Face checkpoint directory (required)")->type_name("DIR");
  // Not ->required(), which would complain of the missing flag before it complains of a misspelt one.
  app.final_callback([flags] {
    if (flags->model.empty()) throw CLI::RequiredError("--model");
  });
  app.add_option("--model-name", flags->model_name, "Name that clients ask for (default: the directory's name)")
      ->type_name("NAME");
  app.add_option("--listen", flags->listen, "Where to serve gRPC; port 0 picks a free one")
      ->check(IsHostPort())
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app.add_option("--advertise", flags->advertise, "Where others reach this worker (default: where it listens)")
      ->check(IsHostPort())
      ->type_name("HOST:PORT");
  AddEtcdFlags(app, &flags->etcd);
  app.add_option("--metrics", flags->metrics, "Where to serve Prometheus metrics, or \"off\"")
      ->check([](const std::string& text) { return text == "off" ? std::string() : HostPortProblem(text); })
      ->type_name("HOST:PORT|off")
      ->capture_default_str();
  AddEngineFlags(app, &flags->engine);
  app.add_option_function<std::string>(
         "--cpus",
         [flags](const std::string& text) {
           absl::StatusOr<std::vector<int>> cpus = ParseCpuList(text);
           if (!cpus.ok()) throw CLI::ValidationError("--cpus", std::string(cpus.status().message()));
           flags->cpus = *std::move(cpus);
         },
         "CPUs to run on, such as 0-3,8 (default: all usable ones)")
      ->type_name("LIST");
  app.add_option_function<std::string>(
         "--memory",
         [flags](const std::string& text) {
           absl::StatusOr<int64_t> bytes = ParseBytes(text);
           if (!bytes.ok()) throw CLI::ValidationError("--memory", std::string(bytes.status().message()));
           if (*bytes == 0) throw CLI::ValidationError("--memory", "must be more than 0 bytes");
           flags->memory = *bytes;
         },
         "Memory for the state of sequences, such as 4GiB (default: a quarter of the machine's)")
      ->type_name("BYTES");
  app.add_option("--max-tokens", flags->max_tokens, "Most tokens of prompt plus output; 0: what the model allows")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40).description(""))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--grace", flags->grace_seconds, "Seconds that running requests get to finish after SIGTERM")
      ->check(RealRange(0, kMaxGraceSeconds).description(""))
      ->type_name("SECONDS")
      ->capture_default_str();
  AddTlsFlags(app, &flags->tls, "other workers");
  AddTracingFlags(app, &flags->tracing);
  AddLogFlags(app, &flags->log);
  app.add_option("--inject-step-delay-ms", flags->inject_step_delay_ms, "For tests: sleep in each engine step")
      ->check(CLI::Range(0, 60000).description(""))
      ->type_name("N")
      ->capture_default_str();
}

absl::StatusOr<std::string> ServedModelName(const WorkerFlags& flags) {
  std::string name = flags.model_name;
  if (name.empty()) {
    std::error_code error;
    // Also turns "." and a trailing slash into a directory with a name.
    const std::filesystem::path path = std::filesystem::weakly_canonical(flags.model, error);
    if (!error) name = path.filename().string();
  }
  const bool usable = !name.empty() && name.size() <= kMaxModelNameBytes &&
                      std::all_of(name.begin(), name.end(), [](char c) { return c > ' ' && c < 127 && c != '"'; });
  if (!usable) {
    return absl::InvalidArgumentError(absl::StrCat("\"", name, "\" cannot be a model's name: give --model-name 1 to ",
                                                   kMaxModelNameBytes,
                                                   " printable ASCII characters without spaces or quotes"));
  }
  return name;
}

int64_t StateMemoryBytes(const WorkerFlags& flags) {
  if (flags.memory > 0) return flags.memory;
  return ReadMachineMemory().bytes / 4;
}

int64_t ServedMaxTokens(const WorkerFlags& flags, const ModelConfig& config) {
  return flags.max_tokens > 0 ? std::min(flags.max_tokens, config.max_tokens) : config.max_tokens;
}

absl::StatusOr<std::unique_ptr<Model>> LoadModel(const WorkerFlags& flags, Checkpoint checkpoint) {
  LoadProgress progress(flags.model);
  ModelOptions options = flags.engine.ToModelOptions();
  options.observer.progress = [&progress](int64_t done, int64_t total) { progress.Update(done, total); };
  options.observer.notice = [&progress](const LoadNotice& notice) { progress.Show(notice); };
  options.observer.cancelled = ShutdownSignalPending;
  return Model::Load(std::move(checkpoint), options);
}

}  // namespace baton
