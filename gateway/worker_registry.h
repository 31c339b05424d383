// All workers this gateway may use: resolves what the flags name, asks a directory for more, keeps one WorkerLink per
// address, and tells observers what changes. DNS names are resolved again and again, and at once when a worker is lost;
// each address is a worker of its own. An address that is no longer listed is dropped once it stops serving, so a
// draining worker is followed to its end.
//
//   WorkerRegistry registry({.prefill = {"prefill.example:7101"}, .decode = {"srv:_grpc._tcp.decode.example"}});
//   registry.AddObserver(&router);
//   registry.Start();
//
// The same process reached by two addresses (equal boot ids) counts once.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "gateway/fleet.h"
#include "gateway/tokenizer_cache.h"
#include "gateway/worker_directory.h"
#include "gateway/worker_link.h"

namespace baton {

// Target -> the host:port of each address, numeric. An error when the name does not resolve now.
using Resolver = std::function<absl::StatusOr<std::vector<std::string>>(const std::string& target)>;

// HOST:PORT, or srv:NAME for the hosts and ports of its SRV records. IPv4 addresses where a host has any, else IPv6:
// one process listening on both is one worker.
absl::StatusOr<std::vector<std::string>> ResolveTarget(const std::string& target);

// What is wrong with a target; empty: nothing.
std::string TargetProblem(const std::string& target);

struct WorkerRegistryOptions {
  // Targets (ResolveTarget).
  std::vector<std::string> prefill;
  std::vector<std::string> decode;
  // More of them; may be null.
  std::shared_ptr<WorkerDirectory> directory;
  Clock::duration resolve_interval = std::chrono::seconds(5);
  // Between two rounds, however often workers are lost.
  Clock::duration shortest_resolve_interval = std::chrono::milliseconds(200);
  Resolver resolver = ResolveTarget;
  WorkerLinkOptions link;
};

class WorkerRegistry {
 public:
  explicit WorkerRegistry(WorkerRegistryOptions options);
  ~WorkerRegistry();
  WorkerRegistry(const WorkerRegistry&) = delete;

  // Before Start; observers must outlive Stop.
  void AddObserver(FleetObserver* observer) { observers_.push_back(observer); }
  void Start();
  void Stop();
  // By stage and endpoint. Names that do not resolve appear as unreachable workers.
  std::vector<WorkerSnapshot> Workers() const;

 private:
  using Key = std::pair<Stage, std::string>;
  // Addresses, with the host that each was listed by, which is what its certificate is for.
  using Listed = std::map<Key, std::string>;

  void ResolveLoop();
  void ResolveAll();
  // Resolves again soon.
  void Wake();
  // Adds what a target or the directory answers to `listed`; false when it has no answer now.
  bool ListTarget(Stage stage, const std::string& target, Listed* listed);
  bool ListDirectory(Listed* listed);
  void SetUnresolved(const Key& key, const absl::Status& status);
  void OnLink(const WorkerSnapshot& snapshot);
  // Another published worker is the same process.
  bool IsDuplicate(const WorkerSnapshot& snapshot) const;
  void Unpublish(const Key& key);

  const WorkerRegistryOptions options_;
  TokenizerCache tokenizers_;
  std::vector<FleetObserver*> observers_;

  // Resolve thread only (and Stop, after it has ended).
  // What this round asked for.
  std::set<Key> asked_;
  std::map<Key, std::unique_ptr<WorkerLink>> links_;

  // Guards what follows; held while observers are called.
  mutable std::mutex mutex_;
  std::condition_variable stop_changed_;
  std::map<Key, WorkerSnapshot> published_;
  // Targets that do not resolve, with the reason.
  std::map<Key, std::string> unresolved_;
  bool stopping_ = false;
  bool woken_ = false;
  std::thread thread_;
};

}  // namespace baton
