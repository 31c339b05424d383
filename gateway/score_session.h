// One Score request: a score-only Prefill.Run per continuation, a few at a time, no decode worker. Ends exactly once,
// with all scores or one error; whatever ends it cancels the calls that are still running.
//
// Holds one slot of the admission queue. A call that finds its worker gone, hung or full is made again, elsewhere if
// there is an elsewhere. Entry points and ownership are those of GenerationSession.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "baton/v1/inference.pb.h"
#include "baton/worker/v1/worker.pb.h"
#include "gateway/generation_session.h"
#include "gateway/request_check.h"
#include "gateway/request_record.h"
#include "gateway/timers.h"

namespace baton {

class ScoreSession : public std::enable_shared_from_this<ScoreSession> {
 public:
  // Called once, last.
  using OnEnd = std::function<void(absl::StatusOr<v1::ScoreResponse>)>;

  ScoreSession(const SessionEnvironment& environment, RequestRecord record,
               std::chrono::system_clock::time_point deadline);
  ScoreSession(const ScoreSession&) = delete;

  // As GenerationSession's.
  void Open(OnEnd on_end);
  void Start(absl::StatusOr<ScorePlan> plan);
  void Cancel();
  void Abort(const absl::Status& status);

 private:
  using PrefillCall = WorkerCall<worker::v1::PrefillRequest, worker::v1::PrefillEvent>;

  // One continuation.
  struct Item {
    Placement placement;
    std::shared_ptr<PrefillCall> call;
    Span span;
    int attempt = 0;
    int failures = 0;
    bool complete = false;
    Avoid avoid;
    // When its worker was last heard of in this matter.
    Clock::time_point last_event;
    v1::ContinuationScore score;
    // Tokens of the context that its worker had cached.
    int32_t cached_tokens = 0;
  };

  // From here on all with mutex_ held.
  void OnRoute(absl::StatusOr<Route> route);
  // Starts calls while there are continuations to start and few enough are running.
  void StartItems();
  void StartItem(size_t index, Placement placement);
  // Finds a worker for a continuation, now or in a moment.
  void PlaceItem(size_t index);
  void PlaceItemLater(size_t index, Clock::duration pause);
  void OnEvent(size_t index, const worker::v1::PrefillEvent& event);
  void OnCallEnd(size_t index, const grpc::Status& status);
  // Looks for workers that are lost without saying so.
  void Watch();
  void OnWatch();
  void Complete();
  void End(absl::StatusOr<v1::ScoreResponse> response);
  absl::Status CancelledStatus() const;
  // The sequence of one continuation, context included.
  int64_t TokensOf(size_t index) const {
    return static_cast<int64_t>(plan_.context.size() + plan_.continuations[index].size());
  }

  const SessionEnvironment environment_;
  const std::chrono::system_clock::time_point deadline_;

  std::mutex mutex_;
  // Guarded by mutex_.
  bool ended_ = false;
  OnEnd on_end_;
  RequestRecord record_;
  // Until Start: the request is checked and tokenized; then until it has a slot.
  const Span preparing_;
  Span waiting_;
  // Set by Start, not changed afterwards.
  ScorePlan plan_;
  std::shared_ptr<AdmissionTicket> ticket_;
  std::vector<Item> items_;
  size_t next_item_ = 0;
  size_t running_ = 0;
  size_t complete_ = 0;
  absl::optional<Timers::Id> watchdog_;
};

}  // namespace baton
