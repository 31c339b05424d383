// Stands between a prefill and a decode worker: passes Decode.Receive on, and keeps a copy of the bytes.
#pragma once

#include <grpcpp/grpcpp.h>

#include <map>
#include <memory>
#include <string>

#include "absl/synchronization/mutex.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"

namespace baton {

class StateTap final : public worker::v1::Decode::Service {
 public:
  explicit StateTap(const std::string& decode_endpoint)
      : stub_(worker::v1::Decode::NewStub(NewChannel(decode_endpoint))),
        server_(RpcServerOptions{"127.0.0.1:0", 64 << 20}) {
    server_.AddService(this);
    BATON_CHECK(server_.Start().ok());
    server_.SetServing(true);
  }
  ~StateTap() override { server_.Stop(absl::ZeroDuration()); }

  std::string endpoint() const { return server_.address(); }

  // What has been sent for a reservation; removed.
  std::string Take(uint64_t id, uint64_t generation) {
    absl::MutexLock lock(&mutex_);
    std::string bytes = std::move(streams_[{id, generation}]);
    streams_.erase({id, generation});
    return bytes;
  }

  grpc::Status Receive(grpc::ServerContext* context,
                       grpc::ServerReaderWriter<worker::v1::ReceiveResponse, worker::v1::StateChunk>* from) override {
    grpc::ClientContext onward;
    const auto to = stub_->Receive(&onward);
    worker::v1::StateChunk chunk;
    std::string bytes;
    uint64_t id = 0;
    uint64_t generation = 0;
    for (bool first = true; from->Read(&chunk); first = false) {
      if (first) {
        id = chunk.reservation_id();
        generation = chunk.generation();
      }
      bytes += chunk.data();
      // So that all of it passes here.
      chunk.clear_offer();
      to->Write(chunk);
    }
    // Cancelled by the prefill worker: so is what went on.
    if (context->IsCancelled()) onward.TryCancel();
    {
      absl::MutexLock lock(&mutex_);
      streams_[{id, generation}] = std::move(bytes);
    }
    to->WritesDone();
    worker::v1::ReceiveResponse answer;
    while (to->Read(&answer)) from->Write(answer);
    return to->Finish();
  }

 private:
  const std::unique_ptr<worker::v1::Decode::Stub> stub_;
  RpcServer server_;
  absl::Mutex mutex_;
  std::map<std::pair<uint64_t, uint64_t>, std::string> streams_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace baton
