#include "decode/state_receiver.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/first_token.h"
#include "common/rpc/status_mapping.h"
#include "decode/samples.h"

namespace baton {

using worker::v1::ReceiveResponse;
using worker::v1::StateChunk;

StateReceiver::StateReceiver(const StateReceiverContext* context) : context_(context), link_(std::make_shared<Link>()) {
  {
    absl::MutexLock lock(&link_->mutex);
    link_->receiver = this;
  }
  StartRead(&buffer_);
}

void StateReceiver::OnReadDone(bool ok) {
  if (!ok) return SenderGone();
  const absl::Status status = Accept(buffer_);
  // Before the next message is read: nothing of this one is needed any more.
  buffer_.Clear();
  if (!status.ok()) return Finish(*link_, status);
  const CommitRecord* commit = reservation_->commit();
  if (commit == nullptr) return ReadNext();
  const absl::Status started = StartDecoding(*commit);
  if (started.ok()) {
    absl::MutexLock lock(&link_->mutex);
    link_->answer.set_position(commit->position);
    link_->answer.set_bytes(reservation_->bytes_received());
  }
  Finish(*link_, started);
}

void StateReceiver::ReadNext() {
  absl::MutexLock lock(&link_->mutex);
  WriteNext(*link_);
  if (!link_->finished && !link_->end.has_value()) StartRead(&buffer_);
}

void StateReceiver::OnWriteDone(bool ok) {
  absl::MutexLock lock(&link_->mutex);
  link_->writing = false;
  // A failed write means that the call is over, which its read notices.
  if (!ok) link_->news = false;
  WriteNext(*link_);
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

absl::Status StateReceiver::Accept(const grpc::ByteBuffer& buffer) {
  const absl::StatusOr<StateMessage> message = StateMessage::Parse(buffer);
  if (!message.ok()) return reservation_ == nullptr ? message.status() : RejectState(message.status());
  const StateChunk& head = message->head();
  if (reservation_ == nullptr) {
    const absl::Status claimed = ClaimReservation(head);
    if (!claimed.ok()) {
      context_->metrics->handoff_refused.Increment();
      return claimed;
    }
    if (head.has_offer()) OpenSharedMemory(head.offer());
  } else if (head.reservation_id() != 0 &&
             (head.reservation_id() != reservation_->id() || head.generation() != reservation_->generation())) {
    return RejectState(
        absl::InvalidArgumentError("reservation_id names another reservation than the stream's first message"));
  }
  const absl::Status status = AcceptFrames(*message);
  if (status.ok()) return status;
  if (!absl::IsNotFound(status)) return RejectState(status);
  context_->metrics->handoff_cancelled.Increment();
  return status;
}

absl::Status StateReceiver::AcceptFrames(const StateMessage& message) {
  std::vector<absl::string_view> frames(message.data().begin(), message.data().end());
  uint64_t shared = 0;
  for (const worker::v1::SharedRange& range : message.head().shared()) {
    if (!shared_memory_.has_value()) {
      return absl::InvalidArgumentError("the message names shared memory that was not accepted");
    }
    const absl::optional<absl::string_view> bytes = shared_memory_->Range(range.offset(), range.length());
    if (!bytes.has_value()) {
      return absl::InvalidArgumentError(absl::StrCat("the message names ", range.length(), " bytes at ", range.offset(),
                                                     ", which is not within the shared memory"));
    }
    frames.push_back(*bytes);
    shared += bytes->size();
  }
  context_->metrics->handoff_bytes.Increment(static_cast<double>(message.data_bytes() + shared));
  BATON_RETURN_IF_ERROR(reservation_->Feed(frames));
  if (shared == 0) return absl::OkStatus();
  shared_bytes_read_ += shared;
  absl::MutexLock lock(&link_->mutex);
  link_->answer.set_shared_bytes_read(shared_bytes_read_);
  link_->news = true;
  return absl::OkStatus();
}

void StateReceiver::OpenSharedMemory(const worker::v1::SharedMemoryOffer& offer) {
  SharedMemoryName name;
  name.process = offer.process();
  name.descriptor = offer.file();
  name.nonce = offer.nonce();
  // A size beyond int64 is none that Open accepts.
  name.bytes = static_cast<int64_t>(offer.bytes());
  absl::StatusOr<SharedMemoryView> view = SharedMemoryView::Open(name);
  if (!view.ok()) {
    Log(Severity::kDebug, "handoff_shared_memory")
        .With("request_id", reservation_->call().request().request_id)
        .With("error", view.status())
        .With("instead", "grpc");
  }
  absl::MutexLock lock(&link_->mutex);
  link_->answer.set_shared_memory(view.ok() ? ReceiveResponse::SHARED_MEMORY_ACCEPTED
                                            : ReceiveResponse::SHARED_MEMORY_REFUSED);
  link_->news = true;
  if (view.ok()) shared_memory_ = *std::move(view);
}

absl::Status StateReceiver::ClaimReservation(const StateChunk& first) {
  BATON_ASSIGN_OR_RETURN(std::shared_ptr<Reservation> reservation,
                         context_->reservations->Find(first.boot_id(), first.reservation_id(), first.generation()));
  BATON_RETURN_IF_ERROR(reservation->Claim(context_->limits.fingerprint, [link = link_] {
    Finish(*link, absl::NotFoundError("the request was cancelled: its reservation has ended"));
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
    const bool ends = EndsSample(request, token.id);
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

absl::Status StateReceiver::StartDecoding(const CommitRecord& commit) {
  const absl::Status checked = CheckCommit(commit);
  if (!checked.ok()) return RejectState(checked);
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
  Finish(*link_, status);
}

void StateReceiver::Finish(Link& link, const absl::Status& status) {
  absl::MutexLock lock(&link.mutex);
  if (link.receiver == nullptr || link.end.has_value()) return;
  link.end = status;
  WriteNext(link);
}

void StateReceiver::WriteNext(Link& link) {
  if (link.receiver == nullptr || link.writing || link.finished) return;
  if (link.end.has_value() && !link.end->ok()) {
    link.finished = true;
    static_cast<Reactor*>(link.receiver)->Finish(ToGrpcStatus(*link.end));
    return;
  }
  if (!std::exchange(link.news, false) && !link.end.has_value()) return;
  const grpc::Slice slice(link.answer.SerializeAsString());
  link.message = grpc::ByteBuffer(&slice, 1);
  // Said once.
  link.answer.clear_shared_memory();
  if (link.end.has_value()) {
    link.finished = true;
    link.receiver->StartWriteAndFinish(&link.message, grpc::WriteOptions(), grpc::Status::OK);
  } else {
    link.writing = true;
    link.receiver->StartWrite(&link.message);
  }
}

}  // namespace baton
