// What workers say of a request's samples -> what its client is told of its choices. Each choice has a TokenRelay and
// an end of its own; this puts them together and knows when the request is complete. Used under the session's lock.
//
// Workers number the samples of one call of theirs, which are all choices, or one that goes on elsewhere; `which` says
// which choices they are.
//
//   Choices choices(&plan);
//   BATON_RETURN_IF_ERROR(choices.AddFirst(first_token, which, &events));  // INTERNAL: the worker broke the contract
//   BATON_RETURN_IF_ERROR(choices.AddProgress(progress, which, &events));
//   ... send events; end the samples of choices.TakeUnwanted(which) at the worker ...
//   if (choices.complete()) choices.EndRest(v1::FINISH_REASON_CANCELLED, &events);
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "baton/v1/inference.pb.h"
#include "baton/worker/v1/worker.pb.h"
#include "gateway/request_check.h"
#include "gateway/token_relay.h"

namespace baton {

// An event for the client (a delta that holds nothing is none), and how many tokens came with it.
struct ChoiceEvent {
  v1::GenerateEvent event;
  int32_t choice = 0;
  int32_t tokens = 0;
};

class Choices {
 public:
  // `plan` must outlive it.
  explicit Choices(const GenerationPlan* plan);

  // The next token of each of these choices, from a prefill worker.
  absl::Status AddFirst(const worker::v1::FirstToken& first, absl::Span<const int> which,
                        std::vector<ChoiceEvent>* events);
  absl::Status AddProgress(const worker::v1::Progress& progress, absl::Span<const int> which,
                           std::vector<ChoiceEvent>* events);
  // Finishes those that have all their tokens, without their worker's word for it: it is gone.
  void FinishEnded(absl::Span<const int> which, std::vector<ChoiceEvent>* events);
  // Their worker is asked to end those that have not ended: this is why they do.
  void CutOff(v1::FinishReason reason) { cut_off_ = reason; }
  // Ends the choices that have not ended, for a reason of the gateway's own.
  void EndRest(v1::FinishReason reason, std::vector<ChoiceEvent>* events);
  // Samples that ended here and that their worker knows nothing of yet.
  std::vector<int32_t> TakeUnwanted(absl::Span<const int> which);

  // Clients have tokens of all choices, or of none.
  bool has_first() const { return choices_.front().relay->has_first(); }
  // Has reached its end, whether or not its worker has said so.
  bool ended(int choice) const { return Get(choice).finished || Get(choice).relay->end().has_value(); }
  bool all_ended(absl::Span<const int> which) const;
  bool all_ended() const;
  // By the workers' own word.
  bool ended_by_worker(absl::Span<const int> which) const;
  // What its client has of it.
  absl::Span<const int32_t> tokens(int choice) const { return Get(choice).relay->tokens(); }
  // Nothing more is wanted from the workers: enough choices have finished.
  bool complete() const { return finished_ >= plan_->stop_after; }
  // Its one choice has all its tokens, and a decode worker is still to say whether it kept the state.
  bool waits_for_session() const { return plan_->keep.has_value() && finished_ == 0; }
  // Until when the worker keeps the state (Unix time, milliseconds), and how many of the tokens belong to it.
  absl::optional<int64_t> kept_until_ms() const { return kept_until_ms_; }
  int32_t kept_tokens() const;
  // Sampled so far, stop tokens included, of all choices.
  int32_t completion_tokens() const;
  int32_t completion_tokens(int choice) const;
  // What the client is told of each in the end. Once all have ended.
  const TokenRelay::End& end(int choice) const { return choices_[static_cast<size_t>(choice)].end; }
  v1::ChoiceFinished Summary(int choice, int32_t cached_tokens) const;
  // For metrics: one that stopped by itself counts more than one that was cut off.
  v1::FinishReason OverallReason() const;

 private:
  struct Choice {
    std::unique_ptr<TokenRelay> relay;
    bool finished = false;
    // Its end was told by its worker.
    bool ended_by_worker = false;
    // It ended here, and its worker is to be told.
    bool unwanted = false;
    // Once finished.
    TokenRelay::End end;
  };

  const Choice& Get(int choice) const { return choices_[static_cast<size_t>(choice)]; }
  // The choice that is a worker's sample; checks the sample's number.
  static absl::Status Find(int32_t sample, absl::Span<const int> which, int* choice);
  void PushDelta(int index, int32_t tokens, v1::Delta delta, std::vector<ChoiceEvent>* events) const;
  static bool EndedWithStopString(const Choice& choice) {
    return choice.relay->end().has_value() && choice.relay->end()->stop_string;
  }
  void Finish(int index, TokenRelay::End end, std::vector<ChoiceEvent>* events);
  // With the text held back; `reason` counts unless its tokens have ended it.
  void FinishNow(int index, v1::FinishReason reason, std::vector<ChoiceEvent>* events);

  const GenerationPlan* const plan_;
  std::vector<Choice> choices_;
  int finished_ = 0;
  absl::optional<v1::FinishReason> cut_off_;
  absl::optional<int64_t> kept_until_ms_;
};

}  // namespace baton
