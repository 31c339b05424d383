#include "decode/state_receiver.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/rpc/status_mapping.h"

namespace baton {

using worker::v1::StateChunk;

StateReceiver::StateReceiver(const StateReceiverContext* context, worker::v1::ReceiveResponse* response)
    : context_(context), response_(response), link_(std::make_shared<Link>()) {
  {
    absl::MutexLock lock(&link_->mutex);
    link_->receiver = this;
  }
  StartRead(&chunk_);
}

void StateReceiver::OnReadDone(bool ok) {
  if (!ok) return SenderGone();
  const absl::Status status = Accept(chunk_);
  if (!status.ok()) return FinishOnce(*link_, status);
  const CommitRecord* commit = reservation_->commit();
  if (commit == nullptr) return ReadNext();
  const absl::Status started = StartDecoding(*commit);
  if (started.ok()) {
    response_->set_position(commit->position);
    response_->set_bytes(reservation_->bytes_received());
  }
  FinishOnce(*link_, started);
}

void StateReceiver::ReadNext() {
  absl::MutexLock lock(&link_->mutex);
  if (!link_->finished) StartRead(&chunk_);
}

// The read that is under way fails, which is dealt with there: all that touches the reservation runs in OnReadDone.
void StateReceiver::OnCancel() {}

void StateReceiver::OnDone() {
  {
    absl::MutexLock lock(&link_->mutex);
    link_->receiver = nullptr;
  }
  delete this;
}

absl::Status StateReceiver::Accept(const StateChunk& chunk) {
  if (reservation_ == nullptr) {
    const absl::Status claimed = ClaimReservation(chunk);
    if (!claimed.ok()) {
      context_->metrics->handoff_refused.Increment();
      return claimed;
    }
  } else if (chunk.reservation_id() != 0 &&
             (chunk.reservation_id() != reservation_->id() || chunk.generation() != reservation_->generation())) {
    return RejectState(
        absl::InvalidArgumentError("reservation_id names another reservation than the stream's first message"));
  }
  context_->metrics->handoff_bytes.Increment(static_cast<double>(chunk.data().size()));
  const absl::Status status = reservation_->Feed(chunk.data());
  if (status.ok()) return status;
  if (!absl::IsNotFound(status)) return RejectState(status);
  context_->metrics->handoff_cancelled.Increment();
  return status;
}

absl::Status StateReceiver::ClaimReservation(const StateChunk& first) {
  BATON_ASSIGN_OR_RETURN(std::shared_ptr<Reservation> reservation,
                         context_->reservations->Find(first.boot_id(), first.reservation_id(), first.generation()));
  BATON_RETURN_IF_ERROR(reservation->Claim(context_->limits.fingerprint, [link = link_] {
    FinishOnce(*link, absl::NotFoundError("the request was cancelled: its reservation has ended"));
  }));
  reservation_ = std::move(reservation);
  return absl::OkStatus();
}

absl::Status StateReceiver::RejectState(const absl::Status& status) {
  reservation_->ForgetSender();
  absl::Status run_status;
  absl::Status sender_status;
  if (absl::IsFailedPrecondition(status)) {
    context_->metrics->handoff_refused.Increment();
    sender_status = WithReason(status, "FINGERPRINT_MISMATCH");
    run_status = sender_status;
  } else {
    context_->metrics->handoff_corrupt.Increment();
    sender_status = WithReason(status, "STATE_CORRUPT");
    run_status = WithReason(absl::DataLossError(absl::StrCat("the prefill worker's state is bad: ", status.message())),
                            "STATE_CORRUPT");
  }
  // First the outcome: ending the reservation is what a cancelled call looks like.
  reservation_->call().Finish(DecodeOutcome::kFailed, run_status);
  context_->reservations->End(*reservation_);
  return sender_status;
}

absl::Status StateReceiver::CheckCommit(const CommitRecord& commit) const {
  const SequenceRequest& request = reservation_->call().request();
  const int64_t tokens = static_cast<int64_t>(request.tokens.size());
  if (commit.position != tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("the state is at position ", commit.position, ", the request has ", tokens, " tokens"));
  }
  const int32_t first_token = commit.first_token.id;
  if (first_token < 0 || first_token >= context_->limits.vocab_size) {
    return absl::InvalidArgumentError(
        absl::StrCat("the first token ", first_token, " is not in [0, ", context_->limits.vocab_size, ")"));
  }
  if (request.IsStop(first_token) || request.generated_tokens + 1 >= request.max_new_tokens) {
    return absl::InvalidArgumentError("the first token already ends the sequence");
  }
  return absl::OkStatus();
}

absl::Status StateReceiver::StartDecoding(const CommitRecord& commit) {
  const absl::Status checked = CheckCommit(commit);
  if (!checked.ok()) return RejectState(checked);
  absl::StatusOr<SequenceState> state = context_->reservations->Take(*reservation_);
  if (!state.ok()) {
    context_->metrics->handoff_cancelled.Increment();
    return state.status();
  }
  reservation_->call().StateReceived(reservation_->bytes_received());
  context_->engine->Add(reservation_->shared_call(), *std::move(state), commit.first_token.id);
  return absl::OkStatus();
}

void StateReceiver::SenderGone() {
  const absl::Status status = absl::CancelledError("the stream ended before its commit");
  if (reservation_ != nullptr) {
    reservation_->ForgetSender();
    const bool was_running = reservation_->call().Finish(
        DecodeOutcome::kFailed,
        WithReason(absl::UnavailableError("the prefill worker went away before the state was complete"),
                   "HANDOFF_FAILED"));
    (was_running ? context_->metrics->handoff_unreachable : context_->metrics->handoff_cancelled).Increment();
    context_->reservations->End(*reservation_);
  }
  FinishOnce(*link_, status);
}

void StateReceiver::FinishOnce(Link& link, const absl::Status& status) {
  absl::MutexLock lock(&link.mutex);
  if (link.receiver == nullptr || link.finished) return;
  link.finished = true;
  link.receiver->Finish(ToGrpcStatus(status));
}

}  // namespace baton
