// Checked plans -> what workers are asked. Whatever a plan holds, workers accept (CheckRequest in worker_request.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "baton/worker/v1/worker.pb.h"
#include "gateway/request_check.h"
#include "gateway/router.h"

namespace baton {

// One choice of a generation that goes on from the tokens its client has, on other workers than before. Workers take
// these as the end of the prompt, and count them towards penalties and limits: the rest comes out as it would have.
struct Continuation {
  int choice = 0;
  // At least one.
  absl::Span<const int32_t> generated;
  // Where the last worker left the state of all tokens but the last; absent: nowhere.
  absl::optional<worker::v1::SessionSource> state;
};

// A decode worker is needed: more than one token is to come, or the state to be kept.
bool NeedsDecode(const GenerationPlan& plan, const Continuation* continuation = nullptr);

// What a generation needs of the fleet: state for prompt and output, unless the first token is the last.
// `continuation`: null for a plan's beginning, with all its choices.
Demand DemandOf(const GenerationPlan& plan, const Continuation* continuation = nullptr);
// What the continuation at `index` needs.
Demand DemandOf(const ScorePlan& plan, size_t index);

// `place`: of the request's route.
worker::v1::DecodeRequest MakeDecodeRequest(const GenerationPlan& plan, PromptPlace place,
                                            const Continuation* continuation = nullptr);
// `reservation`: where the state goes; null for requests of one token.
worker::v1::PrefillRequest MakePrefillRequest(const GenerationPlan& plan, const worker::v1::Reservation* reservation,
                                              const Continuation* continuation = nullptr);
// Scores the continuation at `index`, and nothing else.
worker::v1::PrefillRequest MakeScoreRequest(const ScorePlan& plan, size_t index);

}  // namespace baton
