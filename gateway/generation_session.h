// One generation request from admission to its last event:
//
//   admitted -> [queued] -> reserving (Decode.Run) -> prefilling (Prefill.Run) -> decoding -> ended
//                  ^            |                         |
//                  +-- full ----+------- another attempt -+      only before the first token
//
// Where the decode worker computes the prompt itself, the prefilling is its own and its call tells the first token.
//
// The session is the root of the request's cancellation tree. Whatever ends it (the client, its deadline, a stop
// string, a time limit, a failure) cancels both worker calls at once, gives the workers' claims back and leaves the
// queue. It ends exactly once: one Finished event and OK, or one error.
//
// An attempt is a pair of worker calls. A failed attempt is dropped as a whole; events that still arrive from it carry
// an old attempt number and are ignored. After the first token has gone to the client nothing is tried again.
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
#include "gateway/choices.h"
#include "gateway/generation_sink.h"
#include "gateway/prompt_score_relay.h"
#include "gateway/request_check.h"
#include "gateway/request_record.h"
#include "gateway/router.h"
#include "gateway/timers.h"
#include "gateway/worker_call.h"
#include "gateway/worker_failure.h"

namespace baton {

// What sessions share. All outlive them.
struct SessionEnvironment {
  Router* router = nullptr;
  AdmissionQueue* queue = nullptr;
  Timers* timers = nullptr;
  // Attempts per request, the first included, and the pause before the second, doubled for each further one.
  int max_attempts = 3;
  Clock::duration retry_pause = std::chrono::milliseconds(25);
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
  using DecodeCall = WorkerCall<worker::v1::DecodeRequest, worker::v1::DecodeEvent>;
  using PrefillCall = WorkerCall<worker::v1::PrefillRequest, worker::v1::PrefillEvent>;

  struct Attempt {
    Route route;
    std::string prefill_endpoint;
    std::string decode_endpoint;
    std::shared_ptr<DecodeCall> decode;
    std::shared_ptr<PrefillCall> prefill;
    bool reserved = false;
    worker::v1::Reservation reservation;
    // Decode events that overtook the first token, which travels on the other stream.
    std::vector<worker::v1::DecodeEvent> early;
    // The decode worker has sent a token, so the state has arrived.
    bool handed_off = false;
    bool prefill_done = false;
    // The decode worker computes the prompt, and there is no prefill call.
    bool local() const { return route.prompt_place != PromptPlace::kPrefillWorker; }
  };

  // From here on all with mutex_ held.
  void OnRoute(absl::StatusOr<Route> route);
  void BeginAttempt(Route route);
  void StartDecode();
  void StartPrefill(const worker::v1::Reservation* reservation);
  void OnReservation(const worker::v1::Reservation& reservation);
  void OnDecodeEvent(worker::v1::DecodeEvent& event);
  void OnDecodeEnd(const grpc::Status& status);
  void OnPrefillEvent(worker::v1::PrefillEvent& event);
  void OnPrefillEnd(const grpc::Status& status);
  void OnFirstToken(const worker::v1::FirstToken& first);
  void HandleProgress(const worker::v1::DecodeEvent& event);
  // Frees samples that ended here (a stop string) at the decode worker, while others go on.
  void EndUnwantedSamples();

  void OnFailure(Stage stage, const grpc::Status& status);
  void TryAgain();
  void DropAttempt();
  // Pushes events, and ends the request when that fails. False: it has ended.
  bool Relay(std::vector<ChoiceEvent> events);
  bool Push(v1::GenerateEvent event);
  // Enough choices have finished: cuts off the rest, if there is any, and tells the client.
  void Complete();
  // `reason`: why choices end that have not ended themselves.
  void CompleteWith(v1::FinishReason reason);
  void End(Outcome outcome, const absl::Status& status);
  void Fail(const absl::Status& status) { End(OutcomeOf(status), status); }
  absl::Status CancelledStatus() const;
  // Runs `step` with the lock held unless the request, or the attempt it belongs to, is over.
  template <typename Step>
  void InAttempt(int attempt, Step step);

  const SessionEnvironment environment_;
  const std::chrono::system_clock::time_point deadline_;

  std::mutex mutex_;
  // Guarded by mutex_.
  bool ended_ = false;
  std::unique_ptr<GenerationSink> sink_;
  RequestRecord record_;
  // Set by Start, not changed afterwards.
  GenerationPlan plan_;
  // Null until Start.
  std::unique_ptr<Choices> choices_;
  std::unique_ptr<PromptScoreRelay> prompt_scores_;
  std::shared_ptr<AdmissionTicket> ticket_;
  Attempt attempt_;
  // The current attempt; also counts those that found a worker full.
  int attempt_number_ = 0;
  int failures_ = 0;
  Avoid avoid_;
  absl::optional<Timers::Id> time_limit_;
  absl::optional<Timers::Id> retry_;
  int32_t cached_tokens_ = 0;
  bool routed_before_ = false;
  // Of each choice.
  std::vector<absl::optional<Clock::time_point>> last_token_;
};

}  // namespace baton
