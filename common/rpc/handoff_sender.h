// The sending end of one handoff: a Decode.Receive call to the decode worker that holds the reservation, or that is to
// keep a copy, with a queue of pieces in front, so that the engine thread never waits for the network.
//
// The engine names pieces of the state as they become final (StateCutter), and at the end the first tokens; gRPC
// threads serialize and write them, message by message, as the receiver and the pair's credit allow. Pieces reference
// the state's own memory: a queue of them costs nothing, and the state lives until the last one is on its way.
//
//   auto sender = HandoffSender::Start(peer, HeadOf(handoff), state, options, wake_engine);
//   sender->Send(std::move(pieces));            // any number of times
//   sender->Commit(first_tokens);               // after the last piece
//   ... if (sender->over()) sender->outcome()   // OK once the receiver has verified the commit
//
// Where it goes: to begin with, into the messages themselves. With the first one shared memory is offered (see
// DecodePeer); when the receiver accepts, messages from then on name ranges of it instead, and its answers say how far
// it has read. A message for which there is no room there carries its bytes itself.
//
// Its pending read ends the moment the call does, so that a receiver that refuses or dies is noticed also when there is
// nothing to write. That read is what keeps the call open for writes from other threads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/alarm.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/observe/tracer.h"
#include "common/rpc/decode_peers.h"
#include "common/state/state_codec.h"

namespace baton {

struct HandoffSenderOptions {
  std::string request_id;
  // Whose context the call carries.
  Span span;
  std::chrono::system_clock::time_point deadline = std::chrono::system_clock::time_point::max();
  KvEncoding encoding = KvEncoding::kExact;
  bool offer_shared_memory = false;
  // Fault injection: wait this long before each write.
  absl::Duration write_delay;
};

// Whose state it is. `state` is let go of when its last piece has been written.
struct HandoffState {
  Fingerprint fingerprint;
  std::shared_ptr<const StateLayout> layout;
  int64_t final_position = 0;
  std::shared_ptr<const SequenceState> state;
  // That go on from it.
  size_t samples = 1;
};

struct HandoffOutcome {
  // As the receiver answered, details included.
  absl::Status status;
  // What the receiver says it now holds; meaningful when status is OK.
  int64_t position = 0;
  // Bytes of the state wire format that were written, so far, and how many of them through shared memory.
  int64_t bytes = 0;
  int64_t shared_bytes = 0;
  // When the first write began (infinite future: none did) and when the call ended.
  absl::Time first_write = absl::InfiniteFuture();
  absl::Time ended;
};

// What the first message of a handoff says: whose state it is.
worker::v1::StateChunk HeadOf(const worker::v1::Handoff& target);

// Thread-safe. Owns itself until the call is over; the caller shares it.
class HandoffSender final : public grpc::ClientBidiReactor<grpc::ByteBuffer, worker::v1::ReceiveResponse> {
 public:
  // `head`: of the first message, without data. `wake` is called when the call is over, from gRPC threads, without
  // locks held.
  static std::shared_ptr<HandoffSender> Start(std::shared_ptr<DecodePeer> peer, const worker::v1::StateChunk& head,
                                              HandoffState state, const HandoffSenderOptions& options,
                                              std::function<void()> wake);
  HandoffSender(const HandoffSender&) = delete;

  // Queues pieces of the state, in order. Dropped when the call is over.
  void Send(std::vector<StatePiece> pieces);
  // After the last piece: the receiver answers once it has read and verified them all.
  void Commit(std::vector<FirstTokenRecord> first_tokens);
  // Ends the call early; a no-op when it is over.
  void Cancel();

  // Bytes of pieces that wait to be written.
  int64_t queued_bytes() const;

  bool over() const { return over_.load(std::memory_order_acquire); }
  // Its status and position count only once over().
  HandoffOutcome outcome() const;

  // Reactions.
  void OnWriteDone(bool ok) override;
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  // A range of shared memory that the receiver has not read yet.
  struct InFlight {
    int64_t offset;
    int64_t bytes;
    int64_t credit;
  };
  // What the next message is to hold.
  struct Plan {
    bool header = false;
    size_t pieces = 0;
    bool commit = false;
    // Of its frames, at most; 0: there is nothing to write.
    int64_t bytes = 0;
  };

  HandoffSender(std::shared_ptr<DecodePeer> peer, const worker::v1::StateChunk& head, HandoffState state,
                const HandoffSenderOptions& options, std::function<void()> wake);

  void OnCredit();
  // True when it has asked for credit, whether or not it got it.
  bool MaybeWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  Plan PlanMessage() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void MakeMessage(const Plan& plan) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Moves frames to shared memory and names them in `head`. False: there is no room.
  bool PutInSharedMemory(const ByteChain& frames, int64_t credit, worker::v1::StateChunk* head)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void WriteMessage() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnDelayOver();
  // Returns the credit that has become free.
  int64_t TakeAnswer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // From now on nothing is written. The message being written stays until its write is done.
  void CloseQueue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const std::shared_ptr<DecodePeer> peer_;
  const worker::v1::StateChunk head_;
  const absl::Duration write_delay_;
  const std::function<void()> wake_;
  const bool offer_shared_memory_;
  grpc::ClientContext context_;
  worker::v1::ReceiveResponse answer_;
  std::atomic<bool> over_{false};

  mutable absl::Mutex mutex_;
  // Keeps this alive until OnDone.
  std::shared_ptr<HandoffSender> self_ ABSL_GUARDED_BY(mutex_);
  HandoffState state_ ABSL_GUARDED_BY(mutex_);
  StateFrameWriter frames_ ABSL_GUARDED_BY(mutex_);
  std::deque<StatePiece> queue_ ABSL_GUARDED_BY(mutex_);
  // Empty until Commit.
  std::vector<FirstTokenRecord> first_tokens_ ABSL_GUARDED_BY(mutex_);
  bool header_written_ ABSL_GUARDED_BY(mutex_) = false;
  bool commit_written_ ABSL_GUARDED_BY(mutex_) = false;
  // A write, or the delay before it, is under way: of this message.
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  grpc::ByteBuffer message_ ABSL_GUARDED_BY(mutex_);
  // Its frames, and the credit taken for them; 0: they lie in shared memory (see in_flight_).
  int64_t message_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t message_credit_ ABSL_GUARDED_BY(mutex_) = 0;
  bool half_closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool shared_memory_ ABSL_GUARDED_BY(mutex_) = false;
  std::deque<InFlight> in_flight_ ABSL_GUARDED_BY(mutex_);
  // Of those that are not in in_flight_ any more.
  uint64_t shared_bytes_read_ ABSL_GUARDED_BY(mutex_) = 0;
  grpc::Alarm delay_ ABSL_GUARDED_BY(mutex_);
  HandoffOutcome outcome_ ABSL_GUARDED_BY(mutex_);
  absl::optional<HandoffCredit::Account> account_;
};

}  // namespace baton
