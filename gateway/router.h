// Which worker gets a request: the decode worker with the most free state memory, the prefill worker that will have
// computed its prompt with the least work, among those that serve the request's fingerprint:
//
//   work = tokens queued there + tokens of the prompt that it has not cached      (docs/scheduling.md)
//
// A prompt with few tokens to compute needs no prefill worker: the decode worker computes it in its own batch. And
// where a request's decode worker makes copies of states, the router names the workers that are to keep them.
//
// A worker's own load reports arrive up to a tenth of a second late, so the router adds what this gateway has sent
// there since: a Placement is such a claim, held for as long as the request uses the worker. The worker has the last
// word; one that refused or failed is left alone until its next report, one whose reports are missing until they come
// again, and one that keeps failing for longer (circuit_breaker.h).
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

#include "absl/numeric/int128.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "gateway/circuit_breaker.h"
#include "gateway/demand.h"
#include "gateway/fleet.h"
#include "gateway/prompt_pace.h"
#include "gateway/timers.h"

namespace baton {

class Router;

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
  // The worker is full (refused it), did not answer (failed), or lets it wait: others come first until its next report,
  // and nothing more is held against it.
  void ReportRefused();
  void ReportFailed();
  void ReportLate();
  void Release();

 private:
  friend class Router;
  Router* router_ = nullptr;
  Stage stage_ = Stage::kPrefill;
  uint64_t id_ = 0;
  std::shared_ptr<WorkerConnection> connection_;
};

// Where a prompt is computed: all of it, or what follows the session that it goes on with.
enum class PromptPlace { kPrefillWorker, kDecodeWorker, kDecodeWorkerFromSession };

// A decode worker that keeps copies of the states of sequences that run on another.
struct Standby {
  // As workers reach it, and as this gateway does.
  std::string endpoint;
  std::shared_ptr<WorkerConnection> connection;
};

struct Route {
  // Empty when the decode worker computes the prompt.
  Placement prefill;
  // Empty when the demand needs no state.
  Placement decode;
  PromptPlace prompt_place = PromptPlace::kPrefillWorker;
  // Tokens that the prefill worker computes before it comes to this prompt, and of the prompt itself.
  int64_t tokens_before = 0;
  int64_t tokens_to_compute = 0;
  // Best first; empty when the decode worker makes no copies, or there is nobody to keep them.
  std::vector<Standby> standbys;
};

// What a running attempt uses, and who of it must have no part in another one beside it. Empty endpoints: nobody.
struct Beside {
  std::string prefill;
  std::string decode;
  bool other_prefill = false;
  bool other_decode = false;
};

// Endpoints to use only when there is no other; of those, rather the ones that are named less often.
using Avoid = std::multiset<std::string>;

// Workers report once a second at least: some reports are missing, not one late.
inline constexpr Clock::duration kReportsMissing = std::chrono::seconds(3);

// When a worker last gave a sign of life.
struct WorkerPulse {
  // Its last report came.
  Clock::time_point heard = Clock::time_point::min();
  // It had done more than in the report before.
  Clock::time_point progressed = Clock::time_point::min();
};

// Whether a worker's circuit is open, and for how long nothing goes there yet.
struct WorkerPause {
  bool paused = false;
  Clock::duration left = Clock::duration::zero();
};

// Tokens to compute of a prompt that a decode worker computes itself: what --local-prefill-tokens is by default.
// bench/RESULTS.md has the measurements behind it.
inline constexpr int64_t kLocalPrefillTokens = 32;

class Router : public FleetObserver {
 public:
  // `local_prefill_tokens`: prompts with at most so many tokens to compute may do without a prefill worker; 0: none.
  explicit Router(int64_t local_prefill_tokens = kLocalPrefillTokens, const CircuitBreakerOptions& breaker = {})
      : local_prefill_tokens_(local_prefill_tokens), breaker_options_(breaker) {}

  // Before anything else. Prefill workers with more to compute than they can in this time take no more: requests wait
  // in the gateway, where they are served fairly and can be refused. Zero: no limit.
  void SetPrefillBacklog(Clock::duration backlog) { prefill_backlog_ = backlog; }
  // Before anything else. For how long a worker that says nothing still gets requests, unless all are silent.
  void SetReportsMissing(Clock::duration silence) { reports_missing_ = silence; }
  // Before anything else. Called, without locks, whenever there may be more room.
  void SetCapacityListener(std::function<void()> listener) { capacity_listener_ = std::move(listener); }

  absl::StatusOr<Route> Place(const Demand& demand, const Avoid& avoid = {});
  // For a second attempt at once: rather on none of the first one's workers, and only on such as have worked lately,
  // are not to be avoided, and have no more queued than the prompt has tokens. Nothing: there are none.
  absl::optional<Route> PlaceBeside(const Demand& demand, const Avoid& avoid, const Beside& running);

  // A prefill worker took so long for tokens of a prompt; and how long it ought to take for so many, as it has shown,
  // or the fastest of its kind while it has not. Absent when nobody has.
  void NotePromptTime(const std::string& endpoint, int64_t tokens, Clock::duration time);
  absl::optional<Clock::duration> PromptTime(const std::string& endpoint, int64_t tokens) const;

  // A request's worker did its part, or failed it. Failed: true when the worker gets a pause for it.
  void Worked(Stage stage, const std::string& endpoint);
  bool Failed(Stage stage, const std::string& endpoint);
  // New requests go there.
  bool Serves(Stage stage, const std::string& endpoint) const;
  // Of one that is not known any more, nothing is held against it.
  WorkerPulse Pulse(Stage stage, const std::string& endpoint) const;
  WorkerPause PauseOf(Stage stage, const std::string& endpoint) const;

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
    // Decode: sequences, and tokens to be computed there.
    int samples = 1;
    int64_t prompt_tokens = 0;
  };
  // Sums over the claims that no report includes, kept up to date: thousands of requests may run on a worker, and each
  // placement looks at every worker. Exact, whatever the amounts.
  struct Unreported {
    absl::int128 amount = 0;
    absl::int128 prompt_tokens = 0;
    int64_t samples = 0;

    void Add(const Claim& claim) {
      if (claim.reported) return;
      amount += claim.amount;
      prompt_tokens += claim.prompt_tokens;
      samples += claim.samples;
    }
    void Remove(const Claim& claim) {
      if (claim.reported) return;
      amount -= claim.amount;
      prompt_tokens -= claim.prompt_tokens;
      samples -= claim.samples;
    }
  };
  struct Row {
    WorkerSnapshot snapshot;
    std::map<uint64_t, Claim> claims;
    Unreported unreported;
    // Bytes (decode) or tokens (prefill) in use: the last report, less what was given back since.
    int64_t reported = 0;
    // Prefill: tokens a second while prompts waited, smoothed; 0: not known yet.
    double pace = 0;
    // Likewise of prompts that nothing was in the way of.
    PromptPace prompt_pace;
    // Decode: sequences running, likewise.
    int64_t running = 0;
    // Until the next report.
    bool refused = false;
    bool failed = false;
    CircuitBreaker breaker{CircuitBreakerOptions()};
    // The claim that is the breaker's probe; 0: none.
    uint64_t probe = 0;
    WorkerPulse pulse;
    // Larger: used more recently. Spreads requests over equal workers.
    uint64_t last_used = 0;
    // Likewise as a standby.
    uint64_t last_standby = 0;

    // Estimate of what is in use now.
    int64_t InUse() const;
    int64_t Free() const { return snapshot.load.state_bytes_total() - InUse(); }
    // Decode: sequences that run there now, and prompt tokens that wait to be computed.
    int64_t Running() const;
    int64_t PromptTokens() const;
    // 0: good; larger: only for want of better ones.
    int Reluctance(const Avoid& avoid) const {
      return 2 * static_cast<int>(avoid.count(snapshot.endpoint)) + (failed ? 1 : 0);
    }
  };

  absl::StatusOr<Route> PlaceAmong(const std::vector<Row*>& prefill, const std::vector<Row*>& decode,
                                   const Demand& demand, const Avoid& avoid);
  // Those that may get requests.
  std::vector<Row*> Serving(Stage stage, const std::string& fingerprint);
  absl::Status NoWorkers(const Demand& demand, bool prefill_missing, bool decode_missing) const;
  absl::StatusOr<Row*> ChooseDecode(const std::vector<Row*>& rows, const Demand& demand, const Avoid& avoid) const;
  bool IsBackedUp(const Row& row) const;
  absl::StatusOr<Row*> ChoosePrefill(const std::vector<Row*>& rows, const Demand& demand, const Avoid& avoid) const;
  // The decode worker that is to compute the prompt itself, because that takes it no more than `rows_elsewhere`
  // (common/rpc/local_prefill.h); `place` says from where on. Null: none.
  Row* ChooseLocal(const std::vector<Row*>& rows, const Demand& demand, const Avoid& avoid, int64_t rows_elsewhere,
                   PromptPlace* place) const;
  bool TakesPrompt(const Row& row, int64_t tokens, const Avoid& avoid, int64_t rows_elsewhere) const;
  // Who is to keep copies of what runs on `chosen`: rather on another host, and in turns.
  std::vector<Standby> ChooseStandbys(const std::vector<Row*>& rows, const Row* chosen, const Avoid& avoid);
  // A claim on the memory that the demand's sequences begin with.
  Placement PlaceDecode(Row* row, const Demand& demand, int64_t prompt_tokens);
  // Tokens of the demand's prompt that the worker would compute.
  static int64_t TokensToCompute(const Row& row, const Demand& demand);
  Placement MakePlacement(Row* row, Claim claim);
  void Confirm(const Placement& placement, absl::optional<int64_t> amount);
  void Mark(const Placement& placement, bool Row::*flag);
  void Release(const Placement& placement);
  // The row a placement's claim is still on, or null.
  Row* Find(const Placement& placement);

  const int64_t local_prefill_tokens_;
  Clock::duration prefill_backlog_ = Clock::duration::zero();
  Clock::duration reports_missing_ = kReportsMissing;
  const CircuitBreakerOptions breaker_options_;
  std::function<void()> capacity_listener_;

  // Guards what follows.
  mutable std::mutex mutex_;
  std::map<Key, Row> rows_;
  uint64_t next_id_ = 0;
};

}  // namespace baton
