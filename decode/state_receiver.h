// One Decode.Receive call: reads a state from its sender, checks it, and gives it to whom it is for
// (state_destination.h). Runs on gRPC's threads; the bytes of a message go straight to the state's pages before the
// next one is read, so a fast sender is held back by flow control.
//
// A sender on the same host may offer shared memory in its first message. The receiver then says whether it could open
// it, and as messages name ranges of it, how far it has read.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/optional.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/base/shared_memory.h"
#include "common/rpc/state_message.h"
#include "common/rpc/tracing.h"
#include "common/rpc/worker_request.h"
#include "decode/decode_metrics.h"
#include "decode/engine.h"
#include "decode/reservations.h"
#include "decode/sessions.h"
#include "decode/state_checkpoints.h"
#include "decode/state_destination.h"

namespace baton {

// What receivers share; outlives them all.
struct StateReceiverContext {
  RequestLimits limits;
  Reservations* reservations = nullptr;
  Sessions* sessions = nullptr;
  DecodeEngine* engine = nullptr;
  MemoryBudget* budget = nullptr;
  DecodeMetrics* metrics = nullptr;
  StateCheckpoints* checkpoints = nullptr;
  CheckpointMetrics* checkpoint_metrics = nullptr;
  // May be null.
  const Tracing* tracing = nullptr;
};

// Deletes itself.
class StateReceiver final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  // `context` outlives it. `parent`: the sender's trace.
  explicit StateReceiver(const StateReceiverContext* context, absl::optional<TraceContext> parent = absl::nullopt);

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

 private:
  using Reactor = grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>;

  // Answers, and what reaches the receiver from the end of what it is for, which may come after the receiver is gone.
  struct Link {
    absl::Mutex mutex;
    StateReceiver* receiver ABSL_GUARDED_BY(mutex);
    // An answer is being written.
    bool writing ABSL_GUARDED_BY(mutex) = false;
    grpc::ByteBuffer message ABSL_GUARDED_BY(mutex);
    // What the next answer is to say, if anything new.
    bool news ABSL_GUARDED_BY(mutex) = false;
    worker::v1::ReceiveResponse answer ABSL_GUARDED_BY(mutex);
    // How the call is to end, once that is known; an answer being written goes first.
    absl::optional<absl::Status> end ABSL_GUARDED_BY(mutex);
    bool finished ABSL_GUARDED_BY(mutex) = false;
  };

  // What became of a message.
  absl::Status Accept(const grpc::ByteBuffer& buffer);
  absl::Status AcceptFrames(const StateMessage& message);
  // Finds out whom the state is for.
  absl::Status OpenDestination(const worker::v1::StateChunk& first);
  void OpenSharedMemory(const worker::v1::SharedMemoryOffer& offer);
  void ReadNext();
  // The call ended before its commit.
  void SenderGone();
  void EndSpan(const absl::Status& status) const;
  static void Finish(Link& link, const absl::Status& status);
  static void WriteNext(Link& link) ABSL_EXCLUSIVE_LOCKS_REQUIRED(link.mutex);

  const StateReceiverContext* const context_;
  const std::shared_ptr<Link> link_;
  const absl::optional<TraceContext> parent_;
  // Once it has claimed a reservation.
  Span span_;
  grpc::ByteBuffer buffer_;
  // Set by the first message.
  std::unique_ptr<StateDestination> destination_;
  absl::optional<SharedMemoryView> shared_memory_;
  uint64_t shared_bytes_read_ = 0;
};

}  // namespace baton
