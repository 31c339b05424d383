// An open-loop load run: sends a workload's requests to a gateway when they are due, as streams of the callback API,
// and waits for all of them.
//
//   ServeLoad load(std::move(options), workload, &results);
//   load.Run([&](const ServeLoad::Progress& p) { ... });   // returns after the last request, or soon after Interrupt
#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/client_context.h>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/optional.h"
#include "baton/v1/inference.grpc.pb.h"
#include "bench/serve_results.h"
#include "bench/serve_workload.h"

namespace baton {

struct ServeLoadOptions {
  std::string gateway;
  std::string model;
  WorkloadOptions workload;
  // Requests in flight at most; the next ones wait here, and their clocks run.
  int64_t concurrency = 1024;
  // A request has failed when it is not over this long after its intended arrival, seconds.
  double timeout = 300;
  int connections = 4;
  int32_t priority = 0;
  // Absent: the model's default.
  absl::optional<float> temperature;
};

class ServeLoad {
 public:
  ServeLoad(ServeLoadOptions options, const Workload& workload, ServeResults* results);
  ~ServeLoad();
  ServeLoad(const ServeLoad&) = delete;

  struct Progress {
    double seconds = 0;
    int64_t sent = 0;
    int64_t in_flight = 0;
    // Requests that were due but found no room in flight.
    int64_t held_back = 0;
  };
  // `on_progress` is called about once a second, from the calling thread. Every request handed to `results` once.
  void Run(const std::function<void(const Progress&)>& on_progress);
  // From any thread: sends nothing more and cancels what runs.
  void Interrupt();

  Progress progress() const;
  bool interrupted() const;
  // Seconds after the beginning of Run.
  double Now() const;

 private:
  class Stream;
  enum class Waited { kReady, kTimeUp, kInterrupted };
  // Until a time, or before it until `ready`, which is asked whenever something has ended.
  Waited Wait(double until, absl::FunctionRef<bool()> ready, const std::function<void(const Progress&)>& on_progress);
  Waited WaitForRoom(double give_up, const std::function<void(const Progress&)>& on_progress);
  void Start(const WorkItem& item);
  void AddUnsent(const WorkItem& item);
  void Ended(RequestOutcome outcome);

  const ServeLoadOptions options_;
  const Workload& workload_;
  ServeResults* const results_;
  std::vector<std::unique_ptr<v1::Inference::Stub>> stubs_;
  std::chrono::steady_clock::time_point begin_;

  mutable absl::Mutex mutex_;
  // Something ended, or the run was interrupted.
  absl::CondVar changed_;
  // In flight, by index of their items.
  absl::flat_hash_map<int64_t, std::shared_ptr<grpc::ClientContext>> calls_ ABSL_GUARDED_BY(mutex_);
  bool interrupted_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t sent_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t held_back_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace baton
