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
// A stream that has a way of merging two events into one gets fewer, larger messages while it is behind: an event that
// would wait behind another one joins it, at most kMaxMerged of them. With a pacer (write_pacer.h) they wait for each
// other while the server is busy. The limit counts messages.
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
#include "common/rpc/write_pacer.h"

namespace baton {

template <typename Event>
class EventWriter final : public grpc::ServerWriteReactor<Event> {
 public:
  // Adds `from` to `into`, the event pushed before it, or returns false and changes neither.
  using Merge = bool (*)(Event* into, Event* from);

  // Events in one message.
  static constexpr size_t kMaxMerged = 16;

  class Handle final : public WritePacer::Writer, public std::enable_shared_from_this<Handle> {
   public:
    explicit Handle(EventWriter* reactor) : reactor_(reactor) {}

    bool Push(Event event) {
      absl::MutexLock lock(&mutex_);
      if (reactor_ == nullptr || finishing_ || failed_ || cancelled_) return false;
      // Not with the one that is being written.
      const bool another_waits = queue_.size() > (writing_ ? 1 : 0);
      if (another_waits && reactor_->merge_ != nullptr && queue_.back().pushed < kMaxMerged &&
          reactor_->merge_(&queue_.back().event, &event)) {
        ++queue_.back().pushed;
        return true;
      }
      if (queue_.size() >= reactor_->max_queued_) return false;
      queue_.push_back({std::move(event), 1});
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
    // Messages that wait, one that is being written among them.
    size_t queued() const {
      absl::MutexLock lock(&mutex_);
      return queue_.size();
    }

    // Of the pacer.
    void WriteDeferred() override {
      absl::MutexLock lock(&mutex_);
      deferred_ = false;
      if (MayWrite()) Write();
    }

   private:
    friend class EventWriter;
    struct Entry {
      Event event;
      // How many were merged into it, itself included.
      size_t pushed;
    };
    bool MayWrite() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      return !writing_ && !finished_ && reactor_ != nullptr && !queue_.empty() && !failed_ && !cancelled_;
    }
    void Write() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      writing_ = true;
      reactor_->StartWrite(&queue_.front().event);
    }
    void WriteOrDefer() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      if (deferred_) return;
      WritePacer* const pacer = reactor_->pacer_;
      if (pacer == nullptr) return Write();
      int64_t begun;
      if (pacer->Begin(&begun)) {
        Write();
        return pacer->End(begun);
      }
      deferred_ = true;
      pacer->Defer(this->shared_from_this());
    }
    void MaybeWrite() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
      if (MayWrite()) return WriteOrDefer();
      if (writing_ || finished_ || reactor_ == nullptr) return;
      if (finishing_ || failed_ || cancelled_) {
        finished_ = true;
        reactor_->Finish(finishing_ ? status_ : grpc::Status(grpc::StatusCode::CANCELLED, "the caller went away"));
      }
    }

    mutable absl::Mutex mutex_;
    EventWriter* reactor_ ABSL_GUARDED_BY(mutex_);
    std::deque<Entry> queue_ ABSL_GUARDED_BY(mutex_);
    grpc::Status status_ ABSL_GUARDED_BY(mutex_);
    bool writing_ ABSL_GUARDED_BY(mutex_) = false;
    // The pacer knows of it.
    bool deferred_ ABSL_GUARDED_BY(mutex_) = false;
    bool finishing_ ABSL_GUARDED_BY(mutex_) = false;
    bool finished_ ABSL_GUARDED_BY(mutex_) = false;
    bool failed_ ABSL_GUARDED_BY(mutex_) = false;
    bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  };

  // `pacer` may be null, and outlives the call.
  EventWriter(size_t max_queued, std::function<void()> on_end, Merge merge = nullptr, WritePacer* pacer = nullptr)
      : max_queued_(max_queued),
        merge_(merge),
        pacer_(pacer),
        on_end_(std::move(on_end)),
        handle_(std::make_shared<Handle>(this)) {}

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
  const Merge merge_;
  WritePacer* const pacer_;
  std::function<void()> on_end_;
  const std::shared_ptr<Handle> handle_;
};

}  // namespace baton
