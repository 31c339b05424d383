#include "decode/reserved_destination.h"

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/rpc/first_token.h"
#include "common/rpc/status_mapping.h"
#include "decode/samples.h"

namespace baton {

using worker::v1::StateChunk;

absl::StatusOr<std::unique_ptr<StateDestination>> ReservedDestination::Open(const StateReceiverContext* context,
                                                                            const StateChunk& first,
                                                                            std::function<void()> on_ended) {
  absl::StatusOr<std::shared_ptr<Reservation>> reservation =
      context->reservations->Find(first.boot_id(), first.reservation_id(), first.generation());
  absl::Status status = reservation.status();
  if (status.ok()) status = (*reservation)->Claim(context->limits.fingerprint, std::move(on_ended));
  if (!status.ok()) {
    context->metrics->handoff_refused.Increment();
    return status;
  }
  return std::unique_ptr<StateDestination>(new ReservedDestination(context, *std::move(reservation)));
}

absl::Status ReservedDestination::CheckHead(const StateChunk& head) const {
  const bool other = head.reservation_id() != 0 &&
                     (head.reservation_id() != reservation_->id() || head.generation() != reservation_->generation());
  if (!other && !head.has_checkpoint()) return absl::OkStatus();
  return absl::InvalidArgumentError("reservation_id names another reservation than the stream's first message");
}

void ReservedDestination::CountBytes(int64_t bytes) {
  context_->metrics->handoff_bytes_total.Increment(static_cast<double>(bytes));
}

absl::Status ReservedDestination::Reject(const absl::Status& status) {
  if (absl::IsNotFound(status)) {
    context_->metrics->handoff_cancelled.Increment();
    return status;
  }
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

absl::Status ReservedDestination::CheckCommit(const CommitRecord& commit) const {
  const SequenceRequest& request = reservation_->call().request();
  const int64_t tokens = static_cast<int64_t>(request.tokens.size());
  if (commit.position != tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("the state is at position ", commit.position, ", the request has ", tokens, " tokens"));
  }
  if (static_cast<int>(commit.first_tokens.size()) != request.samples()) {
    return absl::InvalidArgumentError(
        absl::StrCat("first tokens of ", commit.first_tokens.size(), " samples, the request has ", request.samples()));
  }
  bool goes_on = false;
  for (const FirstTokenRecord& token : commit.first_tokens) {
    if (token.id < 0 || token.id >= context_->limits.vocab_size) {
      return absl::InvalidArgumentError(
          absl::StrCat("the first token ", token.id, " is not in [0, ", context_->limits.vocab_size, ")"));
    }
    const bool ends = request.EndAt(token.id, request.generated_tokens + 1).has_value();
    if (request.samples() > 1 && ends != token.ends) {
      return absl::InvalidArgumentError(
          absl::StrCat("whether the first token ", token.id, " ends its sample: it does", ends ? "" : " not"));
    }
    goes_on |= !ends;
  }
  if (!goes_on && request.keep_id.empty()) {
    return absl::InvalidArgumentError("every first token already ends its sample");
  }
  return absl::OkStatus();
}

absl::Status ReservedDestination::Complete() {
  const CommitRecord& commit = *reservation_->commit();
  const absl::Status checked = CheckCommit(commit);
  if (!checked.ok()) return Reject(checked);
  absl::StatusOr<Room> room = context_->reservations->Take(*reservation_);
  DecodeCall& call = reservation_->call();
  if (!room.ok()) {
    context_->metrics->handoff_cancelled.Increment();
    call.Finish(DecodeOutcome::kFailed, room.status());
    return room.status();
  }
  call.StateReceived(reservation_->bytes_received());
  absl::StatusOr<std::vector<SampleStart>> samples =
      BeginSamples(call, *std::move(room), commit.first_tokens, context_->budget, context_->sessions);
  context_->metrics->UpdateStateBytes();
  if (!samples.ok()) {
    call.Finish(DecodeOutcome::kFailed, samples.status());
    return samples.status();
  }
  if (!samples->empty()) context_->engine->Add(reservation_->shared_call(), *std::move(samples));
  return absl::OkStatus();
}

void ReservedDestination::SenderGone() {
  reservation_->ForgetSender();
  const bool was_running = reservation_->call().Finish(
      DecodeOutcome::kFailed, WithReason(absl::UnavailableError("the prefill worker went away before the state was "
                                                                "complete"),
                                         "HANDOFF_FAILED"));
  (was_running ? context_->metrics->handoff_unreachable : context_->metrics->handoff_cancelled).Increment();
  context_->reservations->End(*reservation_);
}

}  // namespace baton
