// Blocking calls of one thread that another thread may have to end: a stop cancels the one that is under way and lets
// no other begin.
//
//   grpc::ClientContext context;
//   const StoppableCalls::Scope call(&calls_, &context);       // before the context goes, of which nobody knows then
//   if (!call.ok()) return absl::CancelledError("stopping");
//   stub->GetInfo(&context, {}, &info);
//   ...
//   calls_.Stop();                                             // any other thread
#pragma once

#include <mutex>

#include <grpcpp/client_context.h>

namespace baton {

class StoppableCalls {
 public:
  class Scope {
   public:
    Scope(StoppableCalls* calls, grpc::ClientContext* context) : calls_(calls), ok_(calls->SetActive(context)) {}
    ~Scope() { calls_->SetActive(nullptr); }
    Scope(const Scope&) = delete;
    // False: stopped; the call must not be made.
    bool ok() const { return ok_; }

   private:
    StoppableCalls* const calls_;
    const bool ok_;
  };

  void Stop() {
    std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
    if (active_ != nullptr) active_->TryCancel();
  }

 private:
  bool SetActive(grpc::ClientContext* context) {
    std::lock_guard<std::mutex> lock(mutex_);
    active_ = context;
    return !stopped_;
  }

  std::mutex mutex_;
  // Guarded by mutex_.
  bool stopped_ = false;
  grpc::ClientContext* active_ = nullptr;
};

}  // namespace baton
