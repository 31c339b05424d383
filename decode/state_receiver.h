// One Decode.Receive call: reads the state of one reservation from its sender, checks it, and lets the sequence join
// the batch. Runs on gRPC's threads; the bytes of a message are staged before the next one is read, so a fast sender is
// held back by flow control.
//
// How it ends, and what becomes of the Run call it belongs to:
//   commit verified                 OK                    goes on
//   no such reservation, late       NOT_FOUND             untouched
//   there is a sender already       ALREADY_EXISTS        untouched
//   bytes do not check              the reader's status   DATA_LOSS (another fingerprint: FAILED_PRECONDITION)
//   sender gone before its commit   CANCELLED             UNAVAILABLE, reason HANDOFF_FAILED
//   Run call over meanwhile         NOT_FOUND             over
#pragma once

#include <memory>

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/rpc/worker_request.h"
#include "decode/decode_metrics.h"
#include "decode/engine.h"
#include "decode/reservations.h"

namespace baton {

// What receivers share; outlives them all.
struct StateReceiverContext {
  RequestLimits limits;
  Reservations* reservations = nullptr;
  DecodeEngine* engine = nullptr;
  DecodeMetrics* metrics = nullptr;
};

// Deletes itself.
class StateReceiver final : public grpc::ServerReadReactor<worker::v1::StateChunk> {
 public:
  // `context` outlives it; `response` is gRPC's.
  StateReceiver(const StateReceiverContext* context, worker::v1::ReceiveResponse* response);

  void OnReadDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  // Reaches the receiver from the reservation's end, which may come after the receiver is gone.
  struct Link {
    absl::Mutex mutex;
    StateReceiver* receiver ABSL_GUARDED_BY(mutex);
    bool finished ABSL_GUARDED_BY(mutex) = false;
  };

  // What became of a chunk.
  absl::Status Accept(const worker::v1::StateChunk& chunk);
  absl::Status ClaimReservation(const worker::v1::StateChunk& first);
  // Ends the Run call because of what came from its sender; returns what to tell the sender.
  absl::Status RejectState(const absl::Status& status);
  void ReadNext();
  absl::Status CheckCommit(const CommitRecord& commit) const;
  absl::Status StartDecoding(const CommitRecord& commit);
  // The call ended before its commit.
  void SenderGone();
  static void FinishOnce(Link& link, const absl::Status& status);

  const StateReceiverContext* const context_;
  worker::v1::ReceiveResponse* const response_;
  const std::shared_ptr<Link> link_;
  worker::v1::StateChunk chunk_;
  // Set by the first chunk, once it has claimed it.
  std::shared_ptr<Reservation> reservation_;
};

}  // namespace baton
