// From a prompt's state and its first tokens to the samples that go on, wherever the prompt was computed.
//
//   BATON_ASSIGN_OR_RETURN(std::vector<SampleStart> samples,
//                          BeginSamples(call, std::move(room), first_tokens, &budget, sessions));
//   if (!samples.empty()) engine.Add(call, std::move(samples));
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "common/state/memory_budget.h"
#include "common/state/sequence_state.h"
#include "common/state/state_codec.h"
#include "decode/decode_call.h"
#include "decode/sessions.h"

namespace baton {

// Memory of one request: the state of its prompt, to be received or computed, and bytes for what its forks will own.
struct Room {
  SequenceState state;
  MemoryReservation forks;
};

// A sample as it joins: it continues with `first_token`, the token at state.position().
struct SampleStart {
  int sample = 0;
  SequenceState state;
  int32_t first_token = 0;
};

// Forks the state for the samples whose first tokens (one for each sample) do not end them, counts the ends of the
// others, and frees what no sample needs. When all have ended the call is over, and the state is kept if it is to be:
// then none is returned. RESOURCE_EXHAUSTED, with the call not over, when the system refuses memory that was promised.
// `sessions` may be null.
absl::StatusOr<std::vector<SampleStart>> BeginSamples(DecodeCall& call, Room room,
                                                      absl::Span<const FirstTokenRecord> first_tokens,
                                                      MemoryBudget* budget, Sessions* sessions);

}  // namespace baton
