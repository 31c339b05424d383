// A Prefill.Run request, checked and in our own types: what the engine works on. Tests:
// tests/prefill/prefill_prompt_test.cc.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/rpc/channel.h"
#include "common/rpc/worker_request.h"
#include "common/state/state_layout.h"

namespace baton {

struct PrefillPrompt {
  SequenceRequest request;
  // Log probabilities are wanted of tokens [score_from, ...).
  absl::optional<int64_t> score_from;
  bool score_only = false;
  // Only prompts with the same salt share what is cached.
  std::string cache_salt;
  // Absent when the sequence ends with its first token (and is not kept) or is only scored.
  absl::optional<worker::v1::Handoff> handoff;
  // The sequence is kept when it has ended.
  bool keep_state = false;
  // Where the state of the prompt's beginning can be had.
  absl::optional<worker::v1::SessionSource> session;

  int64_t tokens() const { return static_cast<int64_t>(request.tokens.size()); }
  // Nothing follows the last token of a prompt that is only scored, so it is not computed.
  int64_t tokens_to_compute() const { return score_only ? tokens() - 1 : tokens(); }
  // Logits are needed from here on: token i is scored by the logits of token i - 1.
  int64_t first_logit_row() const { return score_from.has_value() ? *score_from - 1 : tokens_to_compute() - 1; }
};

struct PrefillLimits {
  RequestLimits request;
  // Of the states this worker makes.
  const StateLayout* layout = nullptr;
  // The whole memory budget.
  int64_t state_bytes = 0;
  // How decode workers that keep sessions are connected to.
  ChannelOptions channel;
};

//   as CheckRequest, and INVALID_ARGUMENT also for a missing or malformed handoff, for score_only without score_from,
//   and (reason PREFILL_MEMORY_FULL) for a prompt whose state can never fit this worker's memory
absl::StatusOr<PrefillPrompt> CheckPrefillRequest(const worker::v1::PrefillRequest& request,
                                                  const PrefillLimits& limits);

}  // namespace baton
