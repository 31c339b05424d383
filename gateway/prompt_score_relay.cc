#include "gateway/prompt_score_relay.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "gateway/token_relay.h"

namespace baton {

absl::Status PromptScoreRelay::Add(const worker::v1::PromptScores& scores, v1::PromptLogprobs* out) {
  const int64_t prompt_tokens = static_cast<int64_t>(plan_->prompt.size());
  if (!plan_->prompt_logprobs) return BrokenContract("prompt scores that nobody asked for");
  if (scores.first() != next_ || scores.first() + int64_t{scores.ids_size()} > prompt_tokens) {
    return BrokenContract(absl::StrCat("prompt scores of [", scores.first(), ", +", scores.ids_size(),
                                       ") where those from ", next_, " on were due"));
  }
  if (scores.ids_size() != scores.logprobs_size()) return BrokenContract("prompt scores without log probabilities");
  int64_t next = next_;
  for (int i = 0; i < scores.ids_size(); ++i, ++next) {
    if (scores.ids(i) != plan_->prompt[static_cast<size_t>(next)]) {
      return BrokenContract("prompt scores of another prompt");
    }
    BATON_ASSIGN_OR_RETURN(v1::TokenLogprob logprob, ToClientLogprob(*plan_->model, scores.ids(i), scores.logprobs(i)));
    if (next >= next_unrelayed_) *out->add_tokens() = std::move(logprob);
  }
  next_ = next;
  next_unrelayed_ = std::max(next_unrelayed_, next);
  return absl::OkStatus();
}

absl::Status PromptScoreRelay::CheckComplete() const {
  const int64_t prompt_tokens = static_cast<int64_t>(plan_->prompt.size());
  if (!plan_->prompt_logprobs || prompt_tokens <= 1 || next_ == prompt_tokens) return absl::OkStatus();
  return BrokenContract("prompt scores are missing");
}

}  // namespace baton
