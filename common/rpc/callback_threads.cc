#include "common/rpc/callback_threads.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/client_callback.h>

#include <memory>

namespace baton {
namespace {

// A call that is prepared, which takes a reference to the threads, and never started, so that nothing ever connects.
class Keeper {
 public:
  Keeper() : stub_(grpc::CreateChannel("unix:/dev/null", grpc::InsecureChannelCredentials())) {
    stub_.PrepareUnaryCall(&context_, "/baton.Keeper/Never", {}, &request_, &response_, &reactor_);
  }

 private:
  class Reactor : public grpc::ClientUnaryReactor {};

  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::Slice message_;
  grpc::ByteBuffer request_{&message_, 1};
  grpc::ByteBuffer response_;
  Reactor reactor_;
};

}  // namespace

void KeepCallbackThreads() {
  // Never destroyed. Volatile, or the pointer would be optimised away and leak checkers would find a leak.
  [[maybe_unused]] static Keeper* volatile keeper = new Keeper;
}

}  // namespace baton
