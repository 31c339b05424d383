#include "prefill/handoff_sender.h"

#include <grpcpp/generic/generic_stub.h>

#include <utility>

#include "absl/time/clock.h"
#include "baton/worker/v1/worker.grpc.pb.h"  // how gRPC serializes the messages
#include "common/base/status_macros.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

using worker::v1::ReceiveResponse;
using worker::v1::StateChunk;

constexpr char kReceiveMethod[] = "/baton.worker.v1.Decode/Receive";

}  // namespace

HandoffSender::HandoffSender(const worker::v1::Handoff& target, const HandoffSenderOptions& options,
                             std::function<void()> wake)
    : target_(target), write_delay_(options.write_delay), wake_(std::move(wake)) {
  context_.set_deadline(options.deadline);
  if (!options.request_id.empty()) context_.AddMetadata("x-request-id", options.request_id);
}

std::shared_ptr<HandoffSender> HandoffSender::Start(const std::shared_ptr<grpc::Channel>& channel,
                                                    const worker::v1::Handoff& target,
                                                    const HandoffSenderOptions& options, std::function<void()> wake) {
  std::shared_ptr<HandoffSender> sender(new HandoffSender(target, options, std::move(wake)));
  {
    absl::MutexLock lock(&sender->mutex_);
    sender->self_ = sender;
  }
  grpc::TemplatedGenericStub<StateChunk, ReceiveResponse> stub(channel);
  stub.PrepareBidiStreamingCall(&sender->context_, kReceiveMethod, grpc::StubOptions(), sender.get());
  sender->StartRead(&sender->response_);
  sender->StartCall();
  return sender;
}

void HandoffSender::Send(std::string frames) {
  BATON_CHECK(!frames.empty());
  absl::MutexLock lock(&mutex_);
  BATON_CHECK(!finish_requested_);
  if (closed_) return;
  StateChunk& chunk = queue_.emplace_back();
  if (!std::exchange(addressed_, true)) {
    chunk.set_reservation_id(target_.reservation_id());
    chunk.set_generation(target_.generation());
    chunk.set_boot_id(target_.boot_id());
  }
  queued_bytes_ += static_cast<int64_t>(frames.size());
  chunk.set_data(std::move(frames));
  MaybeWrite();
}

void HandoffSender::FinishSending() {
  absl::MutexLock lock(&mutex_);
  finish_requested_ = true;
  MaybeWrite();
}

void HandoffSender::Cancel() {
  {
    absl::MutexLock lock(&mutex_);
    if (over()) return;
    CloseQueue();
  }
  context_.TryCancel();
}

int64_t HandoffSender::queued_bytes() const {
  absl::MutexLock lock(&mutex_);
  return queued_bytes_;
}

void HandoffSender::WakeBelow(int64_t bytes) {
  bool wake;
  {
    absl::MutexLock lock(&mutex_);
    wake_below_ = bytes;
    wake = TakeWake();
  }
  if (wake) wake_();
}

HandoffOutcome HandoffSender::outcome() const {
  absl::MutexLock lock(&mutex_);
  return outcome_;
}

bool HandoffSender::TakeWake() {
  if (wake_below_ < 0 || queued_bytes_ > wake_below_) return false;
  wake_below_ = -1;
  return true;
}

void HandoffSender::MaybeWrite() {
  if (closed_ || writing_ || half_closed_) return;
  if (queue_.empty()) {
    if (!finish_requested_) return;
    half_closed_ = true;
    StartWritesDone();
    return;
  }
  writing_ = true;
  if (write_delay_ > absl::ZeroDuration()) {
    // The alarm keeps its callback, so a strong reference would be a cycle.
    delay_.Set(absl::ToChronoTime(absl::Now() + write_delay_), [weak = std::weak_ptr<HandoffSender>(self_)](bool ok) {
      if (const std::shared_ptr<HandoffSender> self = weak.lock()) self->OnDelayOver();
    });
    return;
  }
  StartFrontWrite();
}

void HandoffSender::StartFrontWrite() {
  if (outcome_.first_write == absl::InfiniteFuture()) outcome_.first_write = absl::Now();
  StartWrite(&queue_.front());
}

void HandoffSender::OnDelayOver() {
  absl::MutexLock lock(&mutex_);
  // The call may have ended meanwhile: then nothing holds it open for a write.
  if (closed_) return;
  StartFrontWrite();
}

void HandoffSender::OnWriteDone(bool ok) {
  bool wake = false;
  {
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    if (!ok) {
      CloseQueue();
      return;
    }
    const auto size = static_cast<int64_t>(queue_.front().data().size());
    outcome_.bytes += size;
    queued_bytes_ -= size;
    queue_.pop_front();
    if (closed_) return;
    MaybeWrite();
    wake = TakeWake();
  }
  if (wake) wake_();
}

void HandoffSender::CloseQueue() {
  closed_ = true;
  while (queue_.size() > (writing_ ? 1u : 0u)) {
    queued_bytes_ -= static_cast<int64_t>(queue_.back().data().size());
    queue_.pop_back();
  }
}

void HandoffSender::OnReadDone(bool ok) {
  // Either the answer or the end of the call: in both cases there is nothing left to write.
  absl::MutexLock lock(&mutex_);
  CloseQueue();
}

void HandoffSender::OnDone(const grpc::Status& status) {
  std::shared_ptr<HandoffSender> self;
  {
    absl::MutexLock lock(&mutex_);
    CloseQueue();
    outcome_.status = FromGrpcStatus(status);
    outcome_.position = response_.position();
    outcome_.ended = absl::Now();
    self = std::move(self_);
    over_.store(true, std::memory_order_release);
  }
  wake_();
}

}  // namespace baton
