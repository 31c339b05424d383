// Checked plans -> what workers are asked. Whatever a plan holds, workers accept (CheckRequest in worker_request.h).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "baton/worker/v1/worker.pb.h"
#include "gateway/request_check.h"
#include "gateway/router.h"

namespace baton {

// The state of a sequence's first tokens, which somebody else can go on from.
struct StateElsewhere {
  worker::v1::SessionSource source;
  // That it has consumed: fewer than there are.
  int64_t tokens = 0;
  // Who has it in memory and keeps it as a copy; null: a worker that has left.
  std::shared_ptr<WorkerConnection> standby;
};

// One choice of a generation that goes on from the tokens its client has, on other workers than before. Workers take
// these as the end of the prompt, and count them towards penalties and limits: the rest comes out as it would have.
struct Continuation {
  int choice = 0;
  // At least one.
  absl::Span<const int32_t> generated;
  // Absent: there is none.
  absl::optional<StateElsewhere> state;
};

// A decode worker is needed: more than one token is to come, or the state to be kept.
bool NeedsDecode(const GenerationPlan& plan, const Continuation* continuation = nullptr);

// What a generation needs of the fleet: state for prompt and output, unless the first token is the last.
// `continuation`: null for a plan's beginning, with all its choices.
Demand DemandOf(const GenerationPlan& plan, const Continuation* continuation = nullptr);
// What the continuation at `index` needs.
Demand DemandOf(const ScorePlan& plan, size_t index);

worker::v1::DecodeRequest MakeDecodeRequest(const GenerationPlan& plan, const Route& route,
                                            const Continuation* continuation = nullptr);
// `reservation`: where the state goes; null for requests of one token.
worker::v1::PrefillRequest MakePrefillRequest(const GenerationPlan& plan, const worker::v1::Reservation* reservation,
                                              const Continuation* continuation = nullptr);
// Scores the continuation at `index`, and nothing else.
worker::v1::PrefillRequest MakeScoreRequest(const ScorePlan& plan, size_t index);

}  // namespace baton
