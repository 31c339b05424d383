#include "common/rpc/callback_threads.h"

#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/byte_buffer.h>

#include <memory>
#include <utility>

#include <gtest/gtest.h>

#include "absl/synchronization/notification.h"
#include "common/rpc/channel.h"

namespace baton {
namespace {

// Holds the only reference to its channel, and drops it where calls end: on a callback thread.
class LastReference : public grpc::ClientUnaryReactor {
 public:
  LastReference(std::shared_ptr<grpc::Channel> channel, absl::Notification* gone)
      : stub_(std::move(channel)), gone_(gone) {
    stub_.PrepareUnaryCall(&context_, "/baton.Nobody/Call", {}, &request_, &response_, this);
    StartCall();
  }
  void OnDone(const grpc::Status& status) override {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
    absl::Notification* gone = gone_;
    delete this;
    gone->Notify();
  }

 private:
  grpc::GenericStub stub_;
  grpc::ClientContext context_;
  grpc::Slice message_;
  grpc::ByteBuffer request_{&message_, 1};
  grpc::ByteBuffer response_;
  absl::Notification* const gone_;
};

TEST(CallbackThreads, OutliveTheLastChannel) {
  for (int i = 0; i < 300; ++i) {
    absl::Notification gone;
    new LastReference(NewChannel("unix:/nowhere/socket"), &gone);
    ASSERT_TRUE(gone.WaitForNotificationWithTimeout(absl::Minutes(1)));
  }
}

}  // namespace
}  // namespace baton
