// Log probabilities of the prompt on their way from a prefill worker to the client: checked against the prompt, and
// each relayed once, however often the prompt is computed anew.
//
//   PromptScoreRelay relay(&plan);
//   relay.BeginAttempt();
//   BATON_RETURN_IF_ERROR(relay.Add(scores, &out));       // INTERNAL: the worker broke the contract
//   BATON_RETURN_IF_ERROR(relay.CheckComplete());         // when the first token has come
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "baton/v1/inference.pb.h"
#include "baton/worker/v1/worker.pb.h"
#include "gateway/request_check.h"

namespace baton {

class PromptScoreRelay {
 public:
  // `plan` must outlive it.
  explicit PromptScoreRelay(const GenerationPlan* plan) : plan_(plan) {}

  // A new attempt computes the prompt from the start: what was relayed of it already is passed over.
  void BeginAttempt() { next_ = 1; }
  // The client has some of them.
  bool relayed() const { return next_unrelayed_ > 1; }
  // Log probabilities of prompt tokens not relayed before; may be empty. An error changes nothing.
  absl::Status Add(const worker::v1::PromptScores& scores, v1::PromptLogprobs* out);
  // All that were asked for have come.
  absl::Status CheckComplete() const;

 private:
  const GenerationPlan* const plan_;
  // Index of the next prompt token whose score this attempt has to send, and that the client has not got.
  int64_t next_ = 1;
  int64_t next_unrelayed_ = 1;
};

}  // namespace baton
