// What workers send of one sequence -> what its client sees: checks every token against the contract (positions without
// gap or repeat, ids in range, log probabilities when asked for), detokenizes, finds stop tokens, stop strings and the
// length limit. One for each choice of a request (choices.h); used under the session's lock.
//
//   TokenRelay relay(&plan);
//   BATON_RETURN_IF_ERROR(relay.AddFirst(first_token, &delta));     // INTERNAL: the worker broke the contract
//   BATON_RETURN_IF_ERROR(relay.AddChunk(chunk, &delta));
//   if (relay.end().has_value()) ...                                // nothing may follow
//
// Token ids and log probabilities go out with the delta of the moment they were sampled; text follows as soon as it is
// whole characters that cannot be part of a stop string.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/optional.h"
#include "baton/v1/inference.pb.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/text/stream_decoder.h"
#include "gateway/request_check.h"

namespace baton {

// INTERNAL: what a worker sent contradicts the protocol.
absl::Status BrokenContract(const std::string& what);

// A token's log probability as clients see it, checked: INTERNAL for ids out of range or unmatched lists.
absl::StatusOr<v1::TokenLogprob> ToClientLogprob(const ServedModel& model, int32_t id,
                                                 const worker::v1::TokenLogprobs& logprobs);

class TokenRelay {
 public:
  struct End {
    v1::FinishReason reason = v1::FINISH_REASON_UNSPECIFIED;
    v1::StopMatch match;
    // Found in the text: unless the state is to be kept, the workers know nothing of it and have to be stopped.
    bool stop_string = false;
  };

  // `plan` must outlive it.
  explicit TokenRelay(const GenerationPlan* plan);

  // The next token, from a prefill worker: the first one of all, or the first one since the sequence was continued on
  // other workers.
  absl::Status AddFirst(const worker::v1::FirstToken& first, v1::Delta* delta);
  absl::Status AddChunk(const worker::v1::TokenChunk& chunk, v1::Delta* delta);
  // The worker says that the sequence is complete. INTERNAL when that contradicts its tokens.
  absl::Status AddDone(worker::v1::DoneReason reason, v1::Delta* delta);
  // Text held back, when generation ends for a reason of the gateway's own (a time limit).
  std::string Flush();

  const absl::optional<End>& end() const { return end_; }
  // Sampled so far, a stop token included.
  const std::vector<int32_t>& tokens() const { return tokens_; }
  int32_t completion_tokens() const { return static_cast<int32_t>(tokens_.size()); }
  bool has_first() const { return !tokens_.empty(); }
  // Of all tokens sampled so far, for clients that compare choices; else 0.
  double cumulative_logprob() const { return cumulative_logprob_; }

 private:
  absl::Status AddToken(int32_t id, const worker::v1::TokenLogprobs* logprobs, v1::Delta* delta);
  void AppendToken(int32_t id, v1::Delta* delta);
  void EndWithStopToken(v1::Delta* delta);
  void EndWithLength(v1::Delta* delta);

  const GenerationPlan* const plan_;
  // Null for a model without a tokenizer.
  std::unique_ptr<StreamDecoder> decoder_;
  std::vector<int32_t> tokens_;
  double cumulative_logprob_ = 0;
  absl::optional<End> end_;
};

}  // namespace baton
