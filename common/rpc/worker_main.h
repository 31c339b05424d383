// What both workers' main functions do, in order: block signals, parse flags, configure logs, pin CPUs, plan memory,
// load the model, start metrics, start the role's engine, serve, print the READY line, wait for SIGTERM or SIGINT,
// drain, stop.
//
//   int main(int argc, char** argv) {
//     baton::DecodeRole role;                        // implements WorkerRole
//     return baton::RunWorkerMain(argc, argv, &role);
//   }
//
// Every failure before READY is one line on stderr: exit code 2 for the command line, 1 for everything else.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/impl/service_type.h>
#include <CLI/CLI.hpp>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "common/model/model.h"
#include "common/model/workspace.h"
#include "common/observe/metrics.h"
#include "common/rpc/channel.h"
#include "common/rpc/drain_gate.h"
#include "common/rpc/tracing.h"
#include "common/rpc/worker_flags.h"
#include "common/rpc/worker_service.h"
#include "common/state/memory_budget.h"

namespace baton {

// What a role works with. Everything pointed at outlives the role's Stop().
struct WorkerContext {
  WorkerFlags flags;
  std::string model_name;
  std::string boot_id;
  // Prompt plus output.
  int64_t max_tokens = 0;
  Model* model = nullptr;
  MemoryBudget* budget = nullptr;
  Metrics* metrics = nullptr;
  // The role's engine keeps it up to date.
  LoadReporter* load = nullptr;
  std::shared_ptr<Tracing> tracing;
  // For connections to other workers.
  ChannelOptions channel;
  // Entered by every request that must finish before the process may end. Closed when draining begins.
  DrainGate* gate = nullptr;
};

class WorkerRole {
 public:
  virtual ~WorkerRole() = default;
  virtual worker::v1::WorkerInfo::Role role() const = 0;
  // For --help.
  virtual std::string description() const = 0;
  virtual std::string default_listen() const = 0;
  // The role's own flags.
  virtual void AddFlags(CLI::App& app) = 0;
  // The longest run one forward call of this role appends to a sequence: makes the layout of its states.
  virtual int max_run_tokens() const = 0;
  // The largest batch, and bytes of handoffs that may be under way beside it.
  virtual BatchLimits batch_limits() const = 0;
  virtual int64_t handoff_bytes() const { return 0; }
  // Output tokens that a request's memory is reserved for; 0: all.
  virtual int64_t reserve_output() const { return 0; }
  // Prompt tokens that a decode worker computes in one step; 0: none.
  virtual int local_prefill_chunk() const { return 0; }
  // Generated tokens between two copies of a decode worker's states, 0: none are made; and the bytes of others' copies
  // that it keeps. Asked after Start.
  virtual int checkpoint_tokens() const { return 0; }
  virtual int64_t checkpoint_bytes() const { return 0; }
  // Builds engine and services and starts the engine. Called once, after flags are parsed.
  virtual absl::Status Start(const WorkerContext& context) = 0;
  // The role's services (baton.worker.v1.Worker is added for it). They outlive the server.
  virtual std::vector<grpc::Service*> services() = 0;
  // The server is about to accept requests; others reach it at `endpoint` (host:port).
  virtual void OnListening(const std::string& endpoint) {}
  // SIGTERM has come, and nothing new comes in any more; what runs has the grace period to end.
  virtual void OnDraining() {}
  // It is over, and some still run. Returns how long they get to end in good order.
  virtual absl::Duration OnGraceOver() { return absl::ZeroDuration(); }
  // Before the server stops: waits for what others have yet to fetch.
  virtual void OnDrained() {}
  // Called after the last call has ended; also after a failed start. Stops the engine.
  virtual void Stop() = 0;
};

int RunWorkerMain(int argc, const char* const* argv, WorkerRole* role);

}  // namespace baton
