// The part of a generation that runs on one pair of workers. A request begins as one branch with all its choices. When
// its workers are lost after the client has had tokens, each choice that has not ended goes on as a branch of its own,
// from prompt and tokens so far. Before that there may be two for a while, of which one goes on (generation_hedge.cc).
//
// An attempt is a branch's pair of worker calls. A failed attempt is dropped as a whole; events that still arrive from
// it carry an old attempt number and are ignored. Used under the session's lock.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/optional.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/observe/tracer.h"
#include "gateway/admission_queue.h"
#include "gateway/router.h"
#include "gateway/timers.h"
#include "gateway/worker_call.h"
#include "gateway/worker_requests.h"

namespace baton {

struct Attempt {
  using DecodeCall = WorkerCall<worker::v1::DecodeRequest, worker::v1::DecodeEvent>;
  using PrefillCall = WorkerCall<worker::v1::PrefillRequest, worker::v1::PrefillEvent>;

  Route route;
  std::string prefill_endpoint;
  // Empty when no decode worker is needed.
  std::string decode_endpoint;
  std::shared_ptr<DecodeCall> decode;
  std::shared_ptr<PrefillCall> prefill;
  bool reserved = false;
  worker::v1::Reservation reservation;
  // The prefill worker has sent the next token of each choice.
  bool has_first = false;
  // Decode events that overtook it: it travels on the other stream.
  std::vector<worker::v1::DecodeEvent> early;
  // The decode worker has sent a token, so the state has arrived.
  bool handed_off = false;
  bool prefill_done = false;
  // Since when a worker computes its prompt.
  absl::optional<Clock::time_point> prompt_begun;
  // Where a decode worker that is leaving has left the states of its samples.
  std::map<int32_t, worker::v1::SessionKey> left;
  // The last copies of their states that standbys have.
  std::map<int32_t, worker::v1::StateCheckpoint> checkpoints;
  // Of the attempt, and of its two calls.
  Span span;
  Span decode_span;
  Span prefill_span;
  // When its workers were last heard of in this matter.
  Clock::time_point last_event;

  // The decode worker computes the prompt, and there is no prefill call.
  bool local() const { return route.prompt_place != PromptPlace::kPrefillWorker; }
  // What a failure now interrupts: reserve, prefill, handoff, decode.
  const char* Phase() const {
    if (!decode_endpoint.empty() && !reserved) return "reserve";
    if (!has_first) return "prefill";
    return handed_off ? "decode" : "handoff";
  }
};

struct Branch {
  // Sample i of its workers is choice choices[i].
  std::vector<int> choices;
  // It goes on from tokens that the client has: of its one choice.
  bool resumed = false;
  // A decode worker that was to compute its prompt itself was lost, or would not: a prefill worker is to do it.
  bool wants_prefill_worker = false;
  // What there is of its state; used by one attempt.
  absl::optional<StateElsewhere> state;

  Attempt attempt;
  // While it looks for workers.
  Span waiting;
  // Of the attempt; no two of a session's are alike.
  int number = 0;
  // Since it last got anywhere: attempts that came to nothing, those of them that failed, since when it has been
  // without workers, and whom to avoid.
  int tries = 0;
  int failures = 0;
  absl::optional<Clock::time_point> failing_since;
  Avoid avoid;
  // While it waits for other workers.
  std::shared_ptr<AdmissionTicket> ticket;
  absl::optional<Timers::Id> retry;
  absl::optional<Timers::Id> watchdog;
  // When it may be late with its first token.
  absl::optional<Timers::Id> hedge_timer;

  // It has got on: earlier failures are forgotten.
  void Progressed() {
    tries = 0;
    failures = 0;
    failing_since.reset();
    avoid.clear();
  }
};

}  // namespace baton
