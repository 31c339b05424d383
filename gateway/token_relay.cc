#include "gateway/token_relay.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace baton {

absl::Status BrokenContract(const std::string& what) {
  return absl::InternalError(absl::StrCat("a worker broke the protocol: ", what));
}

namespace {

bool InVocabulary(const ServedModel& model, int32_t id) { return id >= 0 && id < model.vocab_size; }

std::string PieceBytes(const ServedModel& model, int32_t id) {
  return model.tokenizer == nullptr ? std::string() : model.tokenizer->TokenBytes(id, /*keep_special=*/true);
}

}  // namespace

absl::StatusOr<v1::TokenLogprob> ToClientLogprob(const ServedModel& model, int32_t id,
                                                 const worker::v1::TokenLogprobs& logprobs) {
  if (logprobs.top_ids_size() != logprobs.top_logprobs_size()) {
    return BrokenContract("top_ids and top_logprobs differ in length");
  }
  v1::TokenLogprob out;
  out.set_id(id);
  out.set_logprob(logprobs.logprob());
  out.set_piece(PieceBytes(model, id));
  for (int i = 0; i < logprobs.top_ids_size(); ++i) {
    if (!InVocabulary(model, logprobs.top_ids(i))) {
      return BrokenContract(absl::StrCat("token id ", logprobs.top_ids(i), " is outside the vocabulary"));
    }
    v1::TopLogprob* const top = out.add_top();
    top->set_id(logprobs.top_ids(i));
    top->set_logprob(logprobs.top_logprobs(i));
    top->set_piece(PieceBytes(model, logprobs.top_ids(i)));
  }
  return out;
}

TokenRelay::TokenRelay(const GenerationPlan* plan) : plan_(plan) {
  if (plan->model->tokenizer == nullptr) return;
  StreamDecoderOptions options;
  options.stop = plan->stop_strings;
  options.include_stop = plan->include_stop_in_output;
  decoder_ = std::make_unique<StreamDecoder>(plan->model->tokenizer.get(), std::move(options));
}

absl::Status TokenRelay::AddFirst(const worker::v1::FirstToken& first, v1::Delta* delta) {
  BATON_RETURN_IF_ERROR(AddToken(first.id(), first.has_logprobs() ? &first.logprobs() : nullptr, delta));
  if (first.has_done()) return AddDone(first.done(), delta);
  return absl::OkStatus();
}

absl::Status TokenRelay::AddChunk(const worker::v1::TokenChunk& chunk, v1::Delta* delta) {
  const int64_t due = static_cast<int64_t>(plan_->prompt.size() + tokens_.size());
  if (chunk.position() != due) {
    return BrokenContract(absl::StrCat("tokens at position ", chunk.position(), " where ", due, " was due"));
  }
  if (chunk.ids().empty()) return BrokenContract("a chunk without tokens");
  if (chunk.logprobs_size() != 0 && chunk.logprobs_size() != chunk.ids_size()) {
    return BrokenContract("log probabilities for some tokens of a chunk only");
  }
  for (int i = 0; i < chunk.ids_size(); ++i) {
    // The rest of a chunk after a stop string is of no interest to anyone.
    if (end_.has_value() && end_->stop_string) return absl::OkStatus();
    BATON_RETURN_IF_ERROR(AddToken(chunk.ids(i), chunk.logprobs().empty() ? nullptr : &chunk.logprobs(i), delta));
  }
  return absl::OkStatus();
}

absl::Status TokenRelay::AddToken(int32_t id, const worker::v1::TokenLogprobs* logprobs, v1::Delta* delta) {
  if (end_.has_value()) return BrokenContract("tokens after the end of the sequence");
  if (!InVocabulary(*plan_->model, id)) {
    return BrokenContract(absl::StrCat("token id ", id, " is outside the vocabulary"));
  }
  if (plan_->needs_logprobs() && logprobs == nullptr)
    return BrokenContract("a token without the log probability asked for");
  v1::TokenLogprob client_logprob;
  if (plan_->logprobs) {
    BATON_ASSIGN_OR_RETURN(client_logprob, ToClientLogprob(*plan_->model, id, *logprobs));
  }
  if (plan_->wants_choices) cumulative_logprob_ += logprobs->logprob();
  tokens_.push_back(id);

  const bool stops = completion_tokens() > plan_->stopping.min_new_tokens() && plan_->IsStopToken(id);
  const bool visible = !stops || plan_->include_stop_in_output;
  if (visible) {
    if (plan_->token_ids) delta->add_token_ids(id);
    if (plan_->logprobs) *delta->add_logprobs() = std::move(client_logprob);
    AppendToken(id, delta);
  }
  if (end_.has_value()) return absl::OkStatus();
  if (stops) EndWithStopToken(delta);
  if (!stops && completion_tokens() >= plan_->stopping.max_new_tokens()) EndWithLength(delta);
  return absl::OkStatus();
}

void TokenRelay::EndWithStopToken(v1::Delta* delta) {
  end_.emplace();
  end_->reason = v1::FINISH_REASON_STOP;
  const int32_t last_token = tokens_.back();
  if (plan_->IsEos(last_token)) {
    end_->match.set_eos_token_id(last_token);
  } else {
    end_->match.set_stop_token_id(last_token);
  }
  delta->mutable_text()->append(Flush());
}

void TokenRelay::EndWithLength(v1::Delta* delta) {
  end_.emplace();
  end_->reason = v1::FINISH_REASON_LENGTH;
  delta->mutable_text()->append(Flush());
}

void TokenRelay::AppendToken(int32_t id, v1::Delta* delta) {
  if (decoder_ == nullptr) return;
  const StreamDecoder::Step step = decoder_->Push(id);
  delta->mutable_text()->append(step.text);
  if (step.matched_stop < 0) return;
  End end;
  end.reason = v1::FINISH_REASON_STOP;
  end.match.set_stop_string(plan_->stop_strings[static_cast<size_t>(step.matched_stop)]);
  end.stop_string = true;
  end_ = std::move(end);
}

absl::Status TokenRelay::AddDone(worker::v1::DoneReason reason, v1::Delta* delta) {
  if (end_.has_value()) return absl::OkStatus();
  if (reason == worker::v1::LENGTH) {
    // The worker's own limit was nearer than ours.
    EndWithLength(delta);
    return absl::OkStatus();
  }
  if (reason != worker::v1::STOP_TOKEN || !has_first() || !plan_->IsStopToken(tokens_.back())) {
    return BrokenContract(
        absl::StrCat("the sequence ended for reason ", worker::v1::DoneReason_Name(reason), " without a stop token"));
  }
  EndWithStopToken(delta);
  return absl::OkStatus();
}

std::string TokenRelay::Flush() { return decoder_ == nullptr ? std::string() : decoder_->Flush(); }

}  // namespace baton
