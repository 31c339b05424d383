#include "bench/bare_relay.h"

#include <cstdio>
#include <memory>
#include <utility>

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "common/rpc/event_writer.h"
#include "common/rpc/server.h"
#include "common/rpc/shutdown_signal.h"

namespace baton {
namespace {

constexpr char kMethod[] = "/baton.worker.v1.Decode/Run";
constexpr size_t kMaxQueued = 1 << 20;

using Writer = EventWriter<grpc::ByteBuffer>;

// One call to the worker. Deletes itself.
class Upstream final : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  Upstream(grpc::GenericStub* stub, const grpc::ByteBuffer& request, std::shared_ptr<grpc::ClientContext> context,
           std::shared_ptr<Writer::Handle> client)
      : context_(std::move(context)), client_(std::move(client)), request_(request) {
    stub->PrepareBidiStreamingCall(context_.get(), kMethod, {}, this);
    StartWriteLast(&request_, {});
    StartRead(&message_);
    StartCall();
  }
  void OnReadDone(bool ok) override {
    if (!ok) return;
    client_->Push(message_);
    message_.Clear();
    StartRead(&message_);
  }
  void OnDone(const grpc::Status& status) override {
    client_->Finish(status);
    delete this;
  }

 private:
  const std::shared_ptr<grpc::ClientContext> context_;
  const std::shared_ptr<Writer::Handle> client_;
  const grpc::ByteBuffer request_;
  grpc::ByteBuffer message_;
};

class Relay final : public worker::v1::Decode::WithRawCallbackMethod_Run<worker::v1::Decode::Service> {
 public:
  explicit Relay(const std::string& worker) : stub_(NewChannel(worker)) {}
  grpc::ServerWriteReactor<grpc::ByteBuffer>* Run(grpc::CallbackServerContext*,
                                                  const grpc::ByteBuffer* request) override {
    const auto upstream_context = std::make_shared<grpc::ClientContext>();
    auto* const writer = new Writer(kMaxQueued, [upstream_context] { upstream_context->TryCancel(); });
    new Upstream(&stub_, *request, upstream_context, writer->handle());
    return writer;
  }

 private:
  grpc::GenericStub stub_;
};

}  // namespace

absl::Status RunBareRelay(const std::string& worker) {
  Relay relay(worker);
  RpcServerOptions options;
  options.limits.max_streams_per_connection = 1 << 20;
  RpcServer server(options);
  server.AddService(&relay);
  BATON_RETURN_IF_ERROR(server.Start());
  std::printf("READY role=relay listen=%s\n", server.address().c_str());
  std::fflush(stdout);
  WaitForShutdownSignal();
  return absl::OkStatus();
}

}  // namespace baton
