// Which worker gets a request: the decode worker with the most free state memory, the prefill worker that will have
// computed its prompt with the least work, among those that serve the request's fingerprint:
//
//   work = tokens queued there + tokens of the prompt that it has not cached      (docs/scheduling.md)
//
// A worker's own load reports arrive up to a tenth of a second late, so the router adds what this gateway has sent
// there since: a Placement is such a claim, held for as long as the request uses the worker. The worker has the last
// word; one that refused or failed is left alone until its next report.
//
//   absl::StatusOr<Route> route = router.Place(demand, avoid);
//     UNAVAILABLE (NO_WORKERS)             no worker of a needed role: says which
//     INVALID_ARGUMENT (PROMPT_TOO_LONG)   more state than any decode worker has
//     RESOURCE_EXHAUSTED                   no room just now: wait for the capacity listener
//
// Thread-safe; its lock is a leaf, so placements may be made and dropped under any lock. The listener runs without it.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "gateway/fleet.h"

namespace baton {

class Router;

// What a request needs of the fleet.
struct Demand {
  // Raw bytes, and the model's name for messages.
  std::string fingerprint;
  std::string model;
  // Tokens to prefill.
  int64_t prompt_tokens = 0;
  // Short hashes of the prompt's whole blocks, as far as it may go on from the cache. Null: it may not.
  std::shared_ptr<const std::vector<uint64_t>> prefixes;
  // Tokens of state to reserve at a decode worker; 0: none is needed.
  int64_t state_tokens = 0;
  // Samples of the prompt, which share its pages.
  int samples = 1;
};

// A claim on one worker, given back on destruction. Empty when default-constructed or moved from.
class Placement {
 public:
  Placement() = default;
  Placement(Placement&& other) noexcept { *this = std::move(other); }
  Placement& operator=(Placement&& other) noexcept;
  ~Placement() { Release(); }

  explicit operator bool() const { return router_ != nullptr; }
  const std::string& endpoint() const { return connection_->endpoint; }
  const std::shared_ptr<WorkerConnection>& connection() const { return connection_; }
  // The worker has taken it: its reports from now on include it.
  void Confirm();
  // The same; `amount`: bytes or tokens really taken.
  void Confirm(int64_t amount);
  // The worker is full (refused it) or did not answer (failed).
  void ReportRefused();
  void ReportFailed();
  void Release();

 private:
  friend class Router;
  Router* router_ = nullptr;
  Stage stage_ = Stage::kPrefill;
  uint64_t id_ = 0;
  std::shared_ptr<WorkerConnection> connection_;
};

struct Route {
  Placement prefill;
  // Empty when the demand needs no state.
  Placement decode;
};

// Endpoints to use only when there is no other.
using Avoid = std::set<std::string>;

class Router : public FleetObserver {
 public:
  // Before anything else. Called, without locks, whenever there may be more room.
  void SetCapacityListener(std::function<void()> listener) { capacity_listener_ = std::move(listener); }

  absl::StatusOr<Route> Place(const Demand& demand, const Avoid& avoid = {});

  // Serving decode workers of a fingerprint, the one of this boot id first.
  std::vector<std::shared_ptr<WorkerConnection>> DecodeWorkers(const std::string& fingerprint,
                                                               const std::string& boot_id);

  void OnWorker(const WorkerSnapshot& snapshot) override;
  void OnWorkerRemoved(const std::string& endpoint, Stage stage) override;

 private:
  friend class Placement;
  using Key = std::pair<Stage, std::string>;

  struct Claim {
    int64_t amount = 0;
    bool confirmed = false;
    // Included in the worker's last report.
    bool reported = false;
  };
  struct Row {
    WorkerSnapshot snapshot;
    std::map<uint64_t, Claim> claims;
    // Bytes (decode) or tokens (prefill) in use: the last report, less what was given back since.
    int64_t reported = 0;
    // Until the next report.
    bool refused = false;
    bool failed = false;
    // Larger: used more recently. Spreads requests over equal workers.
    uint64_t last_used = 0;

    // Estimate of what is in use now.
    int64_t InUse() const;
    int64_t Free() const { return snapshot.load.state_bytes_total() - InUse(); }
    // 0: good; larger: only for want of better ones.
    int Reluctance(const Avoid& avoid) const { return (avoid.count(snapshot.endpoint) > 0 ? 2 : 0) + (failed ? 1 : 0); }
  };

  std::vector<Row*> Serving(Stage stage, const std::string& fingerprint);
  absl::Status NoWorkers(const Demand& demand, bool prefill_missing, bool decode_missing) const;
  absl::StatusOr<Row*> ChooseDecode(const std::vector<Row*>& rows, const Demand& demand, const Avoid& avoid) const;
  absl::StatusOr<Row*> ChoosePrefill(const std::vector<Row*>& rows, const Demand& demand, const Avoid& avoid) const;
  // Tokens of the demand's prompt that the worker would compute.
  static int64_t TokensToCompute(const Row& row, const Demand& demand);
  Placement MakePlacement(Row* row, int64_t amount, bool confirmed);
  void Confirm(const Placement& placement, absl::optional<int64_t> amount);
  void Mark(const Placement& placement, bool Row::*flag);
  void Release(const Placement& placement);
  // The row a placement's claim is still on, or null.
  Row* Find(const Placement& placement);

  std::function<void()> capacity_listener_;

  // Guards what follows.
  mutable std::mutex mutex_;
  std::map<Key, Row> rows_;
  uint64_t next_id_ = 0;
};

// What of the demand is reserved before its sequences begin: all of it, or the first reserve_output tokens of output.
Demand ReservedFirst(const worker::v1::StateBytes& bytes, const Demand& demand);
// State bytes of a sequence of `tokens` tokens on a worker. Saturates.
int64_t StateBytesFor(const worker::v1::StateBytes& bytes, int64_t tokens);
// Of all samples of a request; a little more than they take.
int64_t StateBytesFor(const worker::v1::StateBytes& bytes, const Demand& demand);

}  // namespace baton
