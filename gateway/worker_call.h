// One streaming call to a worker, from the side that reads.
//
//   auto call = WorkerCall<DecodeRequest, DecodeEvent>::Start(
//       [stub](grpc::ClientContext* context, const DecodeRequest* request, grpc::ClientReadReactor<DecodeEvent>*
//       reactor) {
//         stub->async()->Run(context, request, reactor);
//       },
//       std::move(request), deadline,
//       [session](DecodeEvent& event) { session->OnDecodeEvent(event); },     // one at a time, in order
//       [session](const grpc::Status& status) { session->OnDecodeEnd(status); });  // exactly once, last
//   call->Cancel();     // at any time, from any thread, more than once
//
// The call keeps itself alive until its end and then drops both callbacks, so a callback may own what owns the call.
// Callbacks run on gRPC's threads, never inside Start or Cancel: both may be called with the callbacks' locks held.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <utility>

#include <grpcpp/grpcpp.h>

namespace baton {

template <typename Request, typename Event>
class WorkerCall final : public grpc::ClientReadReactor<Event> {
 public:
  using Open = std::function<void(grpc::ClientContext*, const Request*, grpc::ClientReadReactor<Event>*)>;
  using OnEvent = std::function<void(Event&)>;
  using OnEnd = std::function<void(const grpc::Status&)>;

  static std::shared_ptr<WorkerCall> Start(const Open& open, Request request,
                                           std::chrono::system_clock::time_point deadline, OnEvent on_event,
                                           OnEnd on_end) {
    std::shared_ptr<WorkerCall> call(new WorkerCall(std::move(request), std::move(on_event), std::move(on_end)));
    call->self_ = call;
    if (deadline != std::chrono::system_clock::time_point::max()) call->context_.set_deadline(deadline);
    open(&call->context_, &call->request_, call.get());
    call->StartRead(&call->event_);
    call->StartCall();
    return call;
  }

  void Cancel() { context_.TryCancel(); }

  void OnReadDone(bool ok) override {
    if (!ok) return;
    on_event_(event_);
    event_.Clear();
    this->StartRead(&event_);
  }

  void OnDone(const grpc::Status& status) override {
    on_end_(status);
    on_event_ = nullptr;
    on_end_ = nullptr;
    // May delete this.
    const std::shared_ptr<WorkerCall> self = std::move(self_);
  }

 private:
  WorkerCall(Request request, OnEvent on_event, OnEnd on_end)
      : request_(std::move(request)), on_event_(std::move(on_event)), on_end_(std::move(on_end)) {}

  grpc::ClientContext context_;
  const Request request_;
  OnEvent on_event_;
  OnEnd on_end_;
  Event event_;
  std::shared_ptr<WorkerCall> self_;
};

}  // namespace baton
