// Checked plans -> what workers are asked. Whatever a plan holds, workers accept (CheckRequest in worker_request.h).
#pragma once

#include <cstddef>

#include "baton/worker/v1/worker.pb.h"
#include "gateway/request_check.h"
#include "gateway/router.h"

namespace baton {

// What a generation needs of the fleet: state for prompt and output, unless the first token is the last.
Demand DemandOf(const GenerationPlan& plan);
// What the continuation at `index` needs.
Demand DemandOf(const ScorePlan& plan, size_t index);

// `place`: of the request's route.
worker::v1::DecodeRequest MakeDecodeRequest(const GenerationPlan& plan, PromptPlace place);
// `reservation`: where the state goes; null for requests of one token.
worker::v1::PrefillRequest MakePrefillRequest(const GenerationPlan& plan, const worker::v1::Reservation* reservation);
// Scores the continuation at `index`, and nothing else.
worker::v1::PrefillRequest MakeScoreRequest(const ScorePlan& plan, size_t index);

}  // namespace baton
