// What the gateway knows of one worker at one moment, and who hears of changes.
//
// WorkerLink produces snapshots, WorkerRegistry publishes them, Router, ModelCatalog and GatewayMetrics consume them.
// A snapshot is a value: nobody changes one that has been published.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include <grpcpp/channel.h>

#include "absl/strings/string_view.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/rpc/channel.h"
#include "common/rpc/prefix_summary.h"
#include "common/text/tokenizer.h"
#include "gateway/timers.h"

namespace baton {

enum class Stage { kPrefill, kDecode };
// "prefill", "decode".
inline const char* StageName(Stage stage) { return stage == Stage::kPrefill ? "prefill" : "decode"; }

enum class WorkerState {
  // Nothing heard yet.
  kConnecting,
  kServing,
  // Finishing what it has; takes nothing new.
  kDraining,
  // Was tried and did not answer. Tried again until it does.
  kUnreachable,
};
// "CONNECTING", "SERVING", "DRAINING", "UNREACHABLE".
inline const char* WorkerStateName(WorkerState state) {
  switch (state) {
    case WorkerState::kConnecting:
      return "CONNECTING";
    case WorkerState::kServing:
      return "SERVING";
    case WorkerState::kDraining:
      return "DRAINING";
    case WorkerState::kUnreachable:
      return "UNREACHABLE";
  }
  return "";
}

// The channel to one worker and the stubs on it; shared by all calls to it, whatever becomes of the worker meanwhile.
struct WorkerConnection {
  explicit WorkerConnection(std::string target, const ChannelOptions& options = {})
      : endpoint(std::move(target)),
        channel(NewChannel(endpoint, options)),
        worker(worker::v1::Worker::NewStub(channel)),
        prefill(worker::v1::Prefill::NewStub(channel)),
        decode(worker::v1::Decode::NewStub(channel)) {}

  const std::string endpoint;
  const std::shared_ptr<grpc::Channel> channel;
  const std::unique_ptr<worker::v1::Worker::Stub> worker;
  const std::unique_ptr<worker::v1::Prefill::Stub> prefill;
  const std::unique_ptr<worker::v1::Decode::Stub> decode;
};

struct WorkerSnapshot {
  // host:port of one address.
  std::string endpoint;
  Stage stage = Stage::kPrefill;
  WorkerState state = WorkerState::kConnecting;
  // Why it is unreachable; empty otherwise.
  std::string problem;
  // Null until the worker has answered once; kept while it is away.
  std::shared_ptr<const worker::v1::WorkerInfo> info;
  // When it answered; its uptime counts from there.
  Clock::time_point info_time;
  // Null when `info` is, and for a checkpoint without a tokenizer.
  std::shared_ptr<const Tokenizer> tokenizer;
  worker::v1::Load load;
  // When that came; min(): never.
  Clock::time_point load_time = Clock::time_point::min();
  // What it has cached of prompts; lives on as reports come in.
  std::shared_ptr<const KnownPrefixes> prefixes;
  // Grows with every load report: what was sent before the report is in it.
  uint64_t load_reports = 0;
  std::shared_ptr<WorkerConnection> connection;
};

// Calls come one at a time, in the order of the changes.
class FleetObserver {
 public:
  virtual ~FleetObserver() = default;
  virtual void OnWorker(const WorkerSnapshot& snapshot) = 0;
  virtual void OnWorkerRemoved(const std::string& endpoint, Stage stage) = 0;
};

}  // namespace baton
