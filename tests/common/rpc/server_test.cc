#include "common/rpc/server.h"

#include <grpcpp/grpcpp.h>

#include "absl/synchronization/notification.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/rpc/channel.h"
#include "common/rpc/event_writer.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace baton {
namespace {

using worker::v1::Load;
using worker::v1::WatchLoadRequest;

// Hands its streams to the test.
class LoadService final : public worker::v1::Worker::CallbackService {
 public:
  explicit LoadService(size_t max_queued) : max_queued_(max_queued) {}
  grpc::ServerWriteReactor<Load>* WatchLoad(grpc::CallbackServerContext*, const WatchLoadRequest*) override {
    auto* reactor = new EventWriter<Load>(max_queued_, [this] { ended_.Notify(); });
    handle_ = reactor->handle();
    started_.Notify();
    return reactor;
  }

  const size_t max_queued_;
  std::shared_ptr<EventWriter<Load>::Handle> handle_;
  absl::Notification started_;
  absl::Notification ended_;
};

class ServerTest : public testing::Test {
 protected:
  void Start(LoadService* service) {
    server_.AddService(service);
    ASSERT_TRUE(server_.Start().ok());
    stub_ = worker::v1::Worker::NewStub(NewChannel(server_.address()));
  }
  RpcServer server_{{.listen = "127.0.0.1:0"}};
  std::unique_ptr<worker::v1::Worker::Stub> stub_;
};

TEST_F(ServerTest, SaysThatAPortIsTaken) {
  LoadService service(1);
  Start(&service);
  RpcServer second({.listen = server_.address()});
  second.AddService(&service);
  const absl::Status status = second.Start();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr(server_.address()));
}

TEST_F(ServerTest, EventWriterDeliversEverythingThenTheStatus) {
  LoadService service(1000);
  Start(&service);
  grpc::ClientContext context;
  auto stream = stub_->WatchLoad(&context, WatchLoadRequest());
  service.started_.WaitForNotification();
  for (int i = 0; i < 500; ++i) {
    Load load;
    load.set_running(i);
    ASSERT_TRUE(service.handle_->Push(load));
  }
  service.handle_->Finish(grpc::Status(grpc::StatusCode::ABORTED, "done"));
  EXPECT_FALSE(service.handle_->Push(Load()));
  Load load;
  for (int i = 0; i < 500; ++i) {
    ASSERT_TRUE(stream->Read(&load));
    ASSERT_EQ(load.running(), i);
  }
  EXPECT_FALSE(stream->Read(&load));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::ABORTED);
  service.ended_.WaitForNotification();
  EXPECT_FALSE(service.handle_->Push(Load()));
}

TEST_F(ServerTest, EventWriterNoticesACancelledCall) {
  LoadService service(1000);
  Start(&service);
  grpc::ClientContext context;
  auto stream = stub_->WatchLoad(&context, WatchLoadRequest());
  service.started_.WaitForNotification();
  ASSERT_TRUE(service.handle_->Push(Load()));
  Load load;
  ASSERT_TRUE(stream->Read(&load));
  context.TryCancel();
  service.ended_.WaitForNotification();
  EXPECT_FALSE(service.handle_->Push(Load()));
  EXPECT_EQ(stream->Finish().error_code(), grpc::StatusCode::CANCELLED);
}

TEST_F(ServerTest, EventWriterBoundsItsQueue) {
  LoadService service(4);
  Start(&service);
  grpc::ClientContext context;
  auto stream = stub_->WatchLoad(&context, WatchLoadRequest());
  service.started_.WaitForNotification();
  // Nobody reads: flow control stops the writes, and the queue fills.
  Load load;
  load.set_queued(1);
  int pushed = 0;
  while (service.handle_->Push(load)) {
    ASSERT_LT(++pushed, 10'000'000);
  }
  EXPECT_LE(service.handle_->queued(), 4);
  service.handle_->Finish(grpc::Status::OK);
  int received = 0;
  while (stream->Read(&load)) ++received;
  EXPECT_EQ(received, pushed);
  EXPECT_TRUE(stream->Finish().ok());
  // The client hears of the end before the server's side is over, and the service must outlive that.
  service.ended_.WaitForNotification();
}

}  // namespace
}  // namespace baton
