// The flags that baton-prefill and baton-decode share, and what follows directly from them: the served name, the memory
// budget, the loaded model.
//
//   CLI::App app("...");
//   WorkerFlags flags;
//   flags.listen = "127.0.0.1:7201";
//   AddWorkerFlags(app, &flags);
//   if (absl::optional<int> exit_code = ParseCommandLine(app, argc, argv)) return *exit_code;   // 0 for --help, else 2
//   BATON_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(flags.model));
//   BATON_ASSIGN_OR_RETURN(std::unique_ptr<Model> model, LoadModel(flags, std::move(checkpoint)));
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "common/model/model.h"
#include "common/rpc/engine_flags.h"
#include "common/rpc/etcd.h"
#include "common/rpc/log_flags.h"
#include "common/rpc/tls.h"
#include "common/rpc/tracing.h"

namespace baton {

struct WorkerFlags {
  std::string model;
  // Empty: the directory's name.
  std::string model_name;
  std::string listen;
  // Where others reach this worker. Empty: where it listens.
  std::string advertise;
  EtcdOptions etcd;
  // "off": no metrics endpoint.
  std::string metrics = "127.0.0.1:0";
  EngineFlags engine;
  // Empty: the process's own affinity.
  std::vector<int> cpus;
  // Bytes of sequence state. 0: a quarter of the machine's memory, or of its control group's.
  int64_t memory = 0;
  // Prompt plus output. 0: what the model allows.
  int64_t max_tokens = 0;
  double grace_seconds = 30;
  LogFlags log;
  TlsFlags tls;
  TracingFlags tracing;
  // Fault injection for tests.
  int inject_step_delay_ms = 0;
};

// Registers them all, with --version. `flags` (whose values are the defaults) must outlive `app`. Every value is
// checked while parsing.
void AddWorkerFlags(CLI::App& app, WorkerFlags* flags);

// The name clients use. INVALID_ARGUMENT when neither the flag nor the directory gives a usable one (1 to 128 printable
// ASCII characters without spaces or quotes).
absl::StatusOr<std::string> ServedModelName(const WorkerFlags& flags);

// flags.memory, or its default.
int64_t StateMemoryBytes(const WorkerFlags& flags);

// flags.max_tokens cut to what the model allows.
int64_t ServedMaxTokens(const WorkerFlags& flags, const ModelConfig& config);

// Loads flags.model, opened. Checkpoints beyond 256 MiB show progress: a line that is rewritten when stderr is a
// terminal, a log line every few seconds otherwise.
absl::StatusOr<std::unique_ptr<Model>> LoadModel(const WorkerFlags& flags, Checkpoint checkpoint);

}  // namespace baton
