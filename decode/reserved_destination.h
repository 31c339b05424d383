// The state of a request's prompt, into the memory that its Run call has reserved; when it is whole the samples join
// the batch. How it ends, and what becomes of the Run call:
//
//   commit verified                 OK                    goes on
//   no such reservation, late       NOT_FOUND             untouched
//   there is a sender already       ALREADY_EXISTS        untouched
//   bytes do not check              the reader's status   DATA_LOSS (another fingerprint: FAILED_PRECONDITION)
//   sender gone before its commit   CANCELLED             UNAVAILABLE, reason HANDOFF_FAILED
//   Run call over meanwhile         NOT_FOUND             over
#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "decode/reservations.h"
#include "decode/state_destination.h"
#include "decode/state_receiver.h"

namespace baton {

class ReservedDestination final : public StateDestination {
 public:
  // `first`: the stream's first message. `on_ended`: called, at most once and from any thread, when the reservation
  // ends before its state was complete. `context` must outlive it.
  static absl::StatusOr<std::unique_ptr<StateDestination>> Open(const StateReceiverContext* context,
                                                                const worker::v1::StateChunk& first,
                                                                std::function<void()> on_ended);

  std::string request_id() const override { return reservation_->call().request().request_id; }
  absl::Status CheckHead(const worker::v1::StateChunk& head) const override;
  absl::Status Feed(absl::Span<const absl::string_view> frames) override { return reservation_->Feed(frames); }
  void CountBytes(int64_t bytes) override;
  const CommitRecord* commit() const override { return reservation_->commit(); }
  int64_t bytes_received() const override { return reservation_->bytes_received(); }
  absl::Status Complete() override;
  absl::Status Reject(const absl::Status& status) override;
  void SenderGone() override;

 private:
  ReservedDestination(const StateReceiverContext* context, std::shared_ptr<Reservation> reservation)
      : context_(context), reservation_(std::move(reservation)) {}
  absl::Status CheckCommit(const CommitRecord& commit) const;

  const StateReceiverContext* const context_;
  const std::shared_ptr<Reservation> reservation_;
};

}  // namespace baton
