#include "decode/state_receiver.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/status_mapping.h"
#include "decode/checkpoint_destination.h"
#include "decode/reserved_destination.h"

namespace baton {

using worker::v1::ReceiveResponse;
using worker::v1::StateChunk;

StateReceiver::StateReceiver(const StateReceiverContext* context, absl::optional<TraceContext> parent)
    : context_(context), link_(std::make_shared<Link>()), parent_(std::move(parent)) {
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
  if (!status.ok()) {
    EndSpan(status);
    return Finish(*link_, status);
  }
  const CommitRecord* commit = destination_->commit();
  if (commit == nullptr) return ReadNext();
  {
    absl::MutexLock lock(&link_->mutex);
    link_->answer.set_position(commit->position);
    link_->answer.set_bytes(destination_->bytes_received());
  }
  const absl::Status completed = destination_->Complete();
  EndSpan(completed);
  Finish(*link_, completed);
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

// The read that is under way fails, which is dealt with there: all that touches the destination runs in OnReadDone.
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
  if (!message.ok()) return destination_ == nullptr ? message.status() : destination_->Reject(message.status());
  const StateChunk& head = message->head();
  absl::Status status;
  if (destination_ == nullptr) {
    BATON_RETURN_IF_ERROR(OpenDestination(head));
    if (head.has_offer()) OpenSharedMemory(head.offer());
  } else {
    status = destination_->CheckHead(head);
  }
  if (status.ok()) status = AcceptFrames(*message);
  return status.ok() ? status : destination_->Reject(status);
}

absl::Status StateReceiver::OpenDestination(const StateChunk& first) {
  if (first.has_checkpoint()) {
    BATON_ASSIGN_OR_RETURN(destination_, CheckpointDestination::Open(context_, first.checkpoint()));
    return absl::OkStatus();
  }
  BATON_ASSIGN_OR_RETURN(destination_, ReservedDestination::Open(context_, first, [link = link_] {
                           Finish(*link, absl::NotFoundError("the request was cancelled: its reservation has ended"));
                         }));
  if (context_->tracing != nullptr) {
    span_ = context_->tracing->tracer().Begin("baton.worker.v1.Decode/Receive", parent_, destination_->request_id());
    span_.Set("rpc.system", "grpc");
  }
  return absl::OkStatus();
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
  destination_->CountBytes(static_cast<int64_t>(message.data_bytes() + shared));
  BATON_RETURN_IF_ERROR(destination_->Feed(frames));
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
        .With("request_id", destination_->request_id())
        .With("error", view.status())
        .With("instead", "grpc");
  }
  absl::MutexLock lock(&link_->mutex);
  link_->answer.set_shared_memory(view.ok() ? ReceiveResponse::SHARED_MEMORY_ACCEPTED
                                            : ReceiveResponse::SHARED_MEMORY_REFUSED);
  link_->news = true;
  if (view.ok()) shared_memory_ = *std::move(view);
}

void StateReceiver::EndSpan(const absl::Status& status) const {
  if (!span_) return;
  span_.Set("baton.state_bytes", destination_->bytes_received());
  span_.Set("rpc.grpc.status_code", static_cast<int64_t>(status.code()));
  if (!status.ok()) span_.Fail(status.message());
  span_.End();
}

void StateReceiver::SenderGone() {
  const absl::Status status = absl::CancelledError("the stream ended before its commit");
  if (destination_ != nullptr) destination_->SenderGone();
  EndSpan(status);
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
