// One generation request from admission to its last event:
//
//   admitted -> [queued] -> reserving (Decode.Run) -> prefilling (Prefill.Run) -> decoding -> ended
//                  ^            |                         |                          |
//                  +-- full ----+----- another attempt, elsewhere (branch.h) --------+
//
// Where the decode worker computes the prompt itself, the prefilling is its own and its call tells the first token.
//
// The session is the root of the request's cancellation tree. Whatever ends it (the client, its deadline, a stop
// string, a time limit, a failure) cancels all worker calls at once, gives the workers' claims back and leaves the
// queue. It ends exactly once: one Finished event and OK, or one error.
//
// Workers may be lost at any time. What the client has had stays as it is: choices and their relays (choices.h) live as
// long as the session, and other workers go on from prompt and tokens so far, which gives the same tokens. How often
// and how long that is tried is bounded: see SessionEnvironment.
//
// A request that is late with its first token may be tried on two pairs of workers at once: hedge.h.
//
// generation_session.cc: the request. generation_attempt.cc: what workers say. generation_recovery.cc: losing workers.
// generation_hedge.cc: the race between two attempts.
//
// All entry points take the session's mutex and may be called from any thread. Ownership: worker calls and the client's
// reactor hold the session; timers and the admission ticket only a weak reference.
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
#include "gateway/admission_queue.h"
#include "gateway/branch.h"
#include "gateway/choices.h"
#include "gateway/generation_sink.h"
#include "gateway/hedge.h"
#include "gateway/prompt_score_relay.h"
#include "gateway/request_check.h"
#include "gateway/request_record.h"
#include "gateway/router.h"
#include "gateway/stall_rule.h"
#include "gateway/timers.h"
#include "gateway/worker_failure.h"
#include "gateway/worker_requests.h"

namespace baton {

// What sessions share. All outlive them.
struct SessionEnvironment {
  Router* router = nullptr;
  AdmissionQueue* queue = nullptr;
  Timers* timers = nullptr;
  // Attempts in a row that may fail without a single token in between, twice as many once the client has had tokens;
  // and the pause after the first of them, doubled after each further one.
  int max_attempts = 3;
  Clock::duration retry_pause = std::chrono::milliseconds(25);
  // Attempts that may fail in a request's whole life.
  int max_failures = 32;
  // How long a request whose workers were lost waits for others.
  Clock::duration resume_timeout = std::chrono::seconds(30);
  // How long a decode worker may take to keep the state of a turn whose time is up.
  Clock::duration keep_patience = std::chrono::seconds(2);
  // A worker that owes an answer and gives no sign of life for so long is given up. Zero: never.
  Clock::duration stall_timeout = std::chrono::seconds(10);
  HedgeOptions hedge;
  // All sessions'; needed where the options want hedges.
  HedgeBudget* hedge_budget = nullptr;
};

class GenerationSession : public std::enable_shared_from_this<GenerationSession> {
 public:
  // `deadline`: the client's; time_point::max() when it has none.
  GenerationSession(const SessionEnvironment& environment, RequestRecord record,
                    std::chrono::system_clock::time_point deadline);
  GenerationSession(const GenerationSession&) = delete;

  // Once, before anything else: where to send what happens. From then on the request can be cancelled.
  void Open(std::unique_ptr<GenerationSink> sink);
  // Once: runs the plan, or ends with the reason why there is none. The sink may be finished before this returns.
  void Start(absl::StatusOr<GenerationPlan> plan);
  // The client is gone, or its deadline has passed.
  void Cancel();
  // The gateway gives up the request.
  void Abort(const absl::Status& status);

 private:
  using DecodeCall = Attempt::DecodeCall;
  using PrefillCall = Attempt::PrefillCall;

  // From here on all with mutex_ held.
  void OnRoute(Branch& branch, absl::StatusOr<Route> route);
  void BeginAttempt(Branch& branch, Route route);
  void TraceAttempt(Branch& branch);
  void StartDecode(Branch& branch);
  void StartPrefill(Branch& branch, const worker::v1::Reservation* reservation);
  void OnReservation(Branch& branch, const worker::v1::Reservation& reservation);
  void OnDecodeEvent(Branch& branch, worker::v1::DecodeEvent& event);
  void OnDecodeEnd(Branch& branch, const grpc::Status& status);
  void OnPrefillEvent(Branch& branch, worker::v1::PrefillEvent& event);
  void OnPrefillEnd(Branch& branch, const grpc::Status& status);
  void OnFirstToken(Branch& branch, const worker::v1::FirstToken& first);
  void HandleProgress(Branch& branch, const worker::v1::DecodeEvent& event);
  void NoteCheckpoints(Branch& branch, const worker::v1::Progress& progress);
  // What the branch went on from.
  void CountSource(const Branch& branch, const worker::v1::FirstToken& first) const;
  void HandleLeaving(Branch& branch, const worker::v1::Leaving& leaving);
  // Frees samples that ended here (a stop string) at the decode worker, while others go on.
  void EndUnwantedSamples(Branch& branch);
  // Has the decode worker end the turn with its next token and keep the state. False: there is no state, or none to
  // keep.
  bool CutOffToKeep();
  // The branch has all its tokens, and its workers have nothing more to say.
  void EndBranch(Branch& branch);

  void OnFailure(Branch& branch, Stage stage, const grpc::Status& status);
  // Tells the router, and remembers whom to avoid.
  void Blame(Branch& branch, const WorkerFailure& failure);
  void TraceFailure(const Branch& branch, Stage stage, const WorkerFailure& failure);
  // Goes on elsewhere, from the tokens that the client has if it has any.
  void Resume(Branch& branch, const char* reason);
  // What there is of the state of a choice that was this sample of the attempt.
  absl::optional<StateElsewhere> StateOf(const Attempt& attempt, int32_t sample, int choice) const;
  void FindRoute(Branch& branch);
  void FailAfter(const Branch& branch, const absl::Status& status);
  void DropAttempt(Branch& branch);
  // Takes the step then, unless the attempt is over by that time.
  Timers::Id InAttemptAt(Clock::time_point when, Branch& branch, void (GenerationSession::*step)(Branch&));
  void StopTimer(absl::optional<Timers::Id>* timer);
  // Gives up workers that have stopped without a word.
  void Watch(Branch& branch, Clock::time_point when);
  void OnWatch(Branch& branch);
  // The stage whose worker has, if any.
  absl::optional<Stage> StalledStage(const Branch& branch, const StallRule& rule) const;
  absl::optional<Continuation> ContinuationOf(const Branch& branch) const;

  // Looks then whether the branch is late.
  void WatchForHedge(Branch& branch, Clock::time_point when);
  Clock::time_point LateAt(const Attempt& attempt) const;
  void OnHedgeTimer(Branch& branch);
  // Null: it has begun; else why not, as in docs/metrics.md.
  const char* BeginHedge(Branch& first);
  // Only while there is a hedge: the other one.
  Branch& Rival(const Branch& branch) { return &branch == hedge_ ? FirstBranch() : *hedge_; }
  // The client is about to hear of this one first: the other is let go.
  void WinRace(Branch& winner);
  // It has come to nothing: the other goes on alone. `counts`: as an attempt that failed, if it was the first.
  void LeaveRace(Branch& failed, bool counts);
  void EndRace(const char* result, Branch& left, Branch& dropped);
  // There is no hedge any more.
  void CountHedge(const char* result);
  // A worker broke the protocol: the end of the request, unless another attempt runs.
  void Broken(Branch& branch, const absl::Status& status);
  // Whether it could be relayed.
  absl::Status CheckFirst(const Branch& branch, const worker::v1::FirstToken& first) const;
  // What the prefill worker has shown that it can do.
  void NotePromptTime(const Branch& branch, const worker::v1::FirstToken& first) const;

  // Pushes events, and ends the request when that fails. False: it has ended.
  bool Relay(std::vector<ChoiceEvent> events);
  bool Push(v1::GenerateEvent event);
  void OnTimeLimit();
  // Runs `step` at that time, with the lock held, unless the request is over.
  void SetTimeLimit(Clock::time_point when, void (GenerationSession::*step)());
  void CompleteWithTimeLimit() { CompleteWith(v1::FINISH_REASON_TIME_LIMIT); }
  // Enough choices have finished: cuts off the rest, if there is any, and tells the client.
  void Complete();
  // `reason`: why choices end that have not ended themselves.
  void CompleteWith(v1::FinishReason reason);
  void End(Outcome outcome, const absl::Status& status);
  void Fail(const absl::Status& status) { End(OutcomeOf(status), status); }
  absl::Status CancelledStatus() const;
  Branch& FirstBranch() { return *branches_.front(); }
  // Runs `step` with the lock held unless the request, or the branch's attempt of this number, is over. Branches live
  // as long as the session.
  template <typename Step>
  void InAttempt(Branch* branch, int number, Step step) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (!ended_ && branch->number == number) step();
  }

  const SessionEnvironment environment_;
  const std::chrono::system_clock::time_point deadline_;

  std::mutex mutex_;
  // Guarded by mutex_.
  bool ended_ = false;
  std::unique_ptr<GenerationSink> sink_;
  RequestRecord record_;
  // Until Start: the request is checked and tokenized.
  const Span preparing_;
  // Set by Start, not changed afterwards.
  GenerationPlan plan_;
  // Null until Start.
  std::unique_ptr<Choices> choices_;
  std::unique_ptr<PromptScoreRelay> prompt_scores_;
  // Holds the request's slot, from the queue to the end.
  std::shared_ptr<AdmissionTicket> ticket_;
  std::vector<std::unique_ptr<Branch>> branches_;
  // The last of them, while it races the first one; null otherwise.
  Branch* hedge_ = nullptr;
  // There has been one; there was reason for one that could not be.
  bool hedged_ = false;
  bool hedge_withheld_ = false;
  // Attempts begun, and those dropped.
  int attempt_numbers_ = 0;
  int failures_ = 0;
  absl::optional<Timers::Id> time_limit_;
  // The time is up, and a decode worker is to end the turn.
  bool time_is_up_ = false;
  int32_t cached_tokens_ = 0;
  bool routed_before_ = false;
  // Of each choice.
  std::vector<absl::optional<Clock::time_point>> last_token_;
};

}  // namespace baton
