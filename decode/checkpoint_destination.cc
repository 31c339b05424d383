#include "decode/checkpoint_destination.h"

#include <utility>

#include "common/rpc/worker_request.h"

namespace baton {

absl::StatusOr<std::unique_ptr<StateDestination>> CheckpointDestination::Open(const StateReceiverContext* context,
                                                                              const worker::v1::CheckpointHead& head) {
  const SessionKey key{head.key().id(), head.key().identity()};
  absl::Status status = CheckSessionKey(head.key());
  if (status.ok()) {
    absl::StatusOr<std::unique_ptr<IncomingCheckpoint>> incoming = context->checkpoints->Begin(key, head.position());
    if (incoming.ok()) {
      return std::unique_ptr<StateDestination>(new CheckpointDestination(context, *std::move(incoming)));
    }
    status = incoming.status();
  }
  context->checkpoint_metrics->refused.Increment();
  return status;
}

absl::Status CheckpointDestination::CheckHead(const worker::v1::StateChunk& head) const {
  if (head.reservation_id() == 0 && !head.has_checkpoint()) return absl::OkStatus();
  return absl::InvalidArgumentError("whose state it is, is for the stream's first message to say");
}

absl::Status CheckpointDestination::Complete() {
  const absl::Status kept = incoming_->Keep();
  if (!kept.ok()) return Reject(kept);
  // The next copy may come as soon as the sender hears of it.
  incoming_.reset();
  return absl::OkStatus();
}

absl::Status CheckpointDestination::Reject(const absl::Status& status) {
  context_->checkpoint_metrics->refused.Increment();
  // Its memory is free before the sender hears of it.
  incoming_.reset();
  return status;
}

}  // namespace baton
