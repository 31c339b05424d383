// The copy of a sequence's state that another decode worker pushes, into memory for copies (StateCheckpoints).
#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "decode/state_checkpoints.h"
#include "decode/state_destination.h"
#include "decode/state_receiver.h"

namespace baton {

class CheckpointDestination final : public StateDestination {
 public:
  // `head`: of the stream's first message. Errors of StateCheckpoints::Begin, and INVALID_ARGUMENT for a bad key.
  static absl::StatusOr<std::unique_ptr<StateDestination>> Open(const StateReceiverContext* context,
                                                                const worker::v1::CheckpointHead& head);

  std::string request_id() const override { return ""; }
  absl::Status CheckHead(const worker::v1::StateChunk& head) const override;
  absl::Status Feed(absl::Span<const absl::string_view> frames) override { return incoming_->Feed(frames); }
  void CountBytes(int64_t bytes) override {}
  const CommitRecord* commit() const override { return incoming_->commit(); }
  int64_t bytes_received() const override { return incoming_->bytes_received(); }
  absl::Status Complete() override;
  absl::Status Reject(const absl::Status& status) override;
  void SenderGone() override { incoming_.reset(); }

 private:
  CheckpointDestination(const StateReceiverContext* context, std::unique_ptr<IncomingCheckpoint> incoming)
      : context_(context), incoming_(std::move(incoming)) {}

  const StateReceiverContext* const context_;
  std::unique_ptr<IncomingCheckpoint> incoming_;
};

}  // namespace baton
