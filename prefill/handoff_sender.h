// The sending end of one handoff: a Decode.Receive call to the decode worker that holds the reservation, with an
// outbound queue in front, so that the engine thread never waits for the network. Tests:
// tests/prefill/handoff_sender_test.cc.
//
// The engine queues whole frames of the state wire format as they become final and half-closes after the commit; gRPC
// threads write them out one message at a time. The queue has no limit of its own: the engine looks at queued_bytes()
// before it serializes more, and is woken when that falls (WakeBelow) and when the call is over.
//
//   auto sender = HandoffSender::Start(channel, handoff, options, wake_engine);
//   sender->Send(frames);                       // any number of times
//   sender->FinishSending();                    // after the commit
//   ... if (sender->over()) sender->outcome()   // OK once the receiver has verified the commit
//
// Receive is a client-streaming method, yet the call is made as a bidirectional one (they are the same on the wire):
// its pending read ends the moment the call does, so that a receiver that refuses or dies is noticed also when there is
// nothing to write. That read is what keeps the call open for writes from other threads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>

#include <grpcpp/alarm.h>
#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>
#include <grpcpp/support/client_callback.h>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "baton/worker/v1/worker.pb.h"

namespace baton {

struct HandoffSenderOptions {
  std::string request_id;
  std::chrono::system_clock::time_point deadline = std::chrono::system_clock::time_point::max();
  // Fault injection: wait this long before each write.
  absl::Duration write_delay;
};

struct HandoffOutcome {
  // As the receiver answered, details included.
  absl::Status status;
  // What the receiver says it now holds; meaningful when status is OK.
  int64_t position = 0;
  // State bytes written to the network, so far.
  int64_t bytes = 0;
  // When the first write began (infinite future: none did) and when the call ended.
  absl::Time first_write = absl::InfiniteFuture();
  absl::Time ended;
};

// Thread-safe. Owns itself until the call is over; the caller shares it.
class HandoffSender final : public grpc::ClientBidiReactor<worker::v1::StateChunk, worker::v1::ReceiveResponse> {
 public:
  // `wake` is called from gRPC threads, without locks held, and must stay callable as long as the call lives.
  static std::shared_ptr<HandoffSender> Start(const std::shared_ptr<grpc::Channel>& channel,
                                              const worker::v1::Handoff& target, const HandoffSenderOptions& options,
                                              std::function<void()> wake);
  HandoffSender(const HandoffSender&) = delete;

  // Queues frames (not empty). Dropped when the call is over.
  void Send(std::string frames);
  // No more frames: the receiver answers once it has read and verified them all.
  void FinishSending();
  // Ends the call early; a no-op when it is over.
  void Cancel();

  // Queued and not yet on the network.
  int64_t queued_bytes() const;
  // Wakes the engine once when queued_bytes() is, or has fallen, to `bytes` or below.
  void WakeBelow(int64_t bytes);

  bool over() const { return over_.load(std::memory_order_acquire); }
  // Its status and position count only once over().
  HandoffOutcome outcome() const;

  // Reactions.
  void OnWriteDone(bool ok) override;
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;

 private:
  HandoffSender(const worker::v1::Handoff& target, const HandoffSenderOptions& options, std::function<void()> wake);

  void MaybeWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void StartFrontWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  void OnDelayOver();
  // From now on nothing is written. The message being written stays until its write is done.
  void CloseQueue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool TakeWake() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const worker::v1::Handoff target_;
  const absl::Duration write_delay_;
  const std::function<void()> wake_;
  grpc::ClientContext context_;
  worker::v1::ReceiveResponse response_;
  std::atomic<bool> over_{false};

  mutable absl::Mutex mutex_;
  // Keeps this alive until OnDone.
  std::shared_ptr<HandoffSender> self_ ABSL_GUARDED_BY(mutex_);
  std::deque<worker::v1::StateChunk> queue_ ABSL_GUARDED_BY(mutex_);
  int64_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  bool addressed_ ABSL_GUARDED_BY(mutex_) = false;
  // A write, or the delay before it, is under way.
  bool writing_ ABSL_GUARDED_BY(mutex_) = false;
  bool finish_requested_ ABSL_GUARDED_BY(mutex_) = false;
  bool half_closed_ ABSL_GUARDED_BY(mutex_) = false;
  bool closed_ ABSL_GUARDED_BY(mutex_) = false;
  // < 0: nobody waits.
  int64_t wake_below_ ABSL_GUARDED_BY(mutex_) = -1;
  grpc::Alarm delay_ ABSL_GUARDED_BY(mutex_);
  HandoffOutcome outcome_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace baton
