// The server side of a response stream whose events come from other threads: a queue in front of a ServerWriteReactor.
//
// Ownership: the reactor deletes itself in OnDone; producers hold a std::shared_ptr<EventWriter<T>::Handle>, whose
// calls become no-ops once the call is over. So an engine may always push, whoever went away.
//
//   auto* reactor = new EventWriter<DecodeEvent>(limit, on_end);
//   std::shared_ptr<EventWriter<DecodeEvent>::Handle> handle = reactor->handle();
//   handle->Push(event);                       // false: the stream is over, or its reader is too slow (queue full)
//   handle->Finish(grpc::Status::OK);          // after what was pushed has been written
//
// `on_end` runs exactly once, when the client cancelled, went away, or the stream finished: free what belongs to it
// there. It runs on a gRPC thread and must not block.
#pragma once

#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "absl/synchronization/mutex.h"

namespace baton {

template <typename Event>
class EventWriter final : public grpc::ServerWriteReactor<Event> {
 public:
  class Handle {
   public:
    explicit Handle(EventWriter* reactor) : reactor_(reactor) {}

    bool Push(Event event) {
      absl::MutexLock lock(&mutex_);
      if (reactor_ == nullptr || finishing_ || failed_ || cancelled_) return false;
      if (queue_.size() >= reactor_->max_queued_) return false;
      queue_.push_back(std::move(event));
      MaybeWrite();
      return true;
    }

    // Idempotent; the first status counts. Queued events are written first, unless the call was cancelled.
    void Finish(grpc::Status status) {
      absl::MutexLock lock(&mutex_);
      if (reactor_ == nullptr || finishing_) return;
      finishing_ = true;
      status_ = std::move(status);
      MaybeWrite();
    }

    bool cancelled() const {
      absl::MutexLock lock(&mutex_);
      return cancelled_ || reactor_ == nullptr;
    }
    size_t queued() const {
      absl::MutexLock lock(&mutex_);
      return queue_.size();
    }

   private:
    friend class EventWriter;
    void MaybeWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      if (writing_ || finished_ || reactor_ == nullptr) return;
      if (!queue_.empty() && !failed_ && !cancelled_) {
        writing_ = true;
        reactor_->StartWrite(&queue_.front());
        return;
      }
      if (finishing_ || failed_ || cancelled_) {
        finished_ = true;
        reactor_->Finish(finishing_ ? status_ : grpc::Status(grpc::StatusCode::CANCELLED, "the caller went away"));
      }
    }

    mutable absl::Mutex mutex_;
    EventWriter* reactor_ ABSL_GUARDED_BY(mutex_);
    std::deque<Event> queue_ ABSL_GUARDED_BY(mutex_);
    grpc::Status status_ ABSL_GUARDED_BY(mutex_);
    bool writing_ ABSL_GUARDED_BY(mutex_) = false;
    bool finishing_ ABSL_GUARDED_BY(mutex_) = false;
    bool finished_ ABSL_GUARDED_BY(mutex_) = false;
    bool failed_ ABSL_GUARDED_BY(mutex_) = false;
    bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  };

  EventWriter(size_t max_queued, std::function<void()> on_end)
      : max_queued_(max_queued), on_end_(std::move(on_end)), handle_(std::make_shared<Handle>(this)) {}

  std::shared_ptr<Handle> handle() const { return handle_; }

  void OnWriteDone(bool ok) override {
    absl::MutexLock lock(&handle_->mutex_);
    handle_->writing_ = false;
    if (ok) {
      handle_->queue_.pop_front();
    } else {
      handle_->failed_ = true;
    }
    handle_->MaybeWrite();
  }

  void OnCancel() override {
    {
      absl::MutexLock lock(&handle_->mutex_);
      handle_->cancelled_ = true;
    }
    End();
    absl::MutexLock lock(&handle_->mutex_);
    handle_->MaybeWrite();
  }

  void OnDone() override {
    {
      absl::MutexLock lock(&handle_->mutex_);
      handle_->reactor_ = nullptr;
    }
    End();
    delete this;
  }

 private:
  void End() {
    std::function<void()> on_end;
    {
      absl::MutexLock lock(&handle_->mutex_);
      on_end = std::exchange(on_end_, nullptr);
    }
    if (on_end) on_end();
  }

  const size_t max_queued_;
  std::function<void()> on_end_;
  const std::shared_ptr<Handle> handle_;
};

}  // namespace baton
