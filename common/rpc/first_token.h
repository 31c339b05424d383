// The first tokens of a request, from the logits of its last prompt token: drawn by the prefill worker, or by a decode
// worker that computes the prompt itself. One function, so that they are the same.
//
//   worker::v1::PrefillEvent event;
//   auto tokens = SampleFirstTokens(request, logits, sampler, event.mutable_first_token());
#pragma once

#include <vector>

#include "absl/types/span.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/rpc/worker_request.h"
#include "common/sampling/sampler.h"
#include "common/state/state_codec.h"

namespace baton {

// One record for each sample. `told`: filled in but for cached_tokens.
std::vector<FirstTokenRecord> SampleFirstTokens(const SequenceRequest& request, absl::Span<const float> logits,
                                                Sampler& sampler, worker::v1::FirstToken* told);

}  // namespace baton
