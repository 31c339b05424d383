#include "prefill/handoff_sender.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>

#include "absl/strings/str_cat.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_mapping.h"
#include "tests/prefill/fake_decode.h"

namespace baton {
namespace {

using Behaviour = FakeDecode::Behaviour;

class HandoffSenderTest : public ::testing::Test {
 protected:
  std::shared_ptr<HandoffSender> Start(uint64_t id, HandoffSenderOptions options = {}) {
    return StartTo(decode_.endpoint(), id, options);
  }
  std::shared_ptr<HandoffSender> StartTo(const std::string& endpoint, uint64_t id, HandoffSenderOptions options = {}) {
    worker::v1::Handoff target;
    target.set_endpoint(endpoint);
    target.set_boot_id("boot");
    target.set_reservation_id(id);
    target.set_generation(7);
    return HandoffSender::Start(NewChannel(endpoint), target, options, [wakes = wakes_] { ++*wakes; });
  }
  static bool WaitForOver(const HandoffSender& sender) {
    return Eventually([&] { return sender.over(); });
  }

  FakeDecode decode_;
  std::shared_ptr<std::atomic<int>> wakes_ = std::make_shared<std::atomic<int>>(0);
};

TEST_F(HandoffSenderTest, FramesArriveInOrderAndTheAnswerComesBack) {
  decode_.Plan(1, {Behaviour::kAccept, grpc::Status::OK, 42});
  const std::shared_ptr<HandoffSender> sender = Start(1);
  std::string expected;
  for (int i = 0; i < 100; ++i) {
    const std::string frames = absl::StrCat("frame ", i, std::string(i * 100, 'x'));
    expected += frames;
    sender->Send(frames);
  }
  sender->FinishSending();
  ASSERT_TRUE(WaitForOver(*sender));
  const HandoffOutcome outcome = sender->outcome();
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(outcome.position, 42);
  EXPECT_EQ(outcome.bytes, static_cast<int64_t>(expected.size()));
  EXPECT_LE(outcome.first_write, outcome.ended);
  EXPECT_EQ(sender->queued_bytes(), 0);
  EXPECT_TRUE(Eventually([&] { return *wakes_ >= 1; }));
  const FakeDecode::Received received = decode_.Get(1);
  EXPECT_EQ(received.bytes, expected);
  EXPECT_EQ(received.first.generation(), 7u);
  EXPECT_EQ(received.first.boot_id(), "boot");
}

// Nothing is being written when the receiver ends the call: the sender learns of it all the same.
TEST_F(HandoffSenderTest, ARefusalIsNoticedWithoutAWrite) {
  grpc::Status refusal = ToGrpcStatus(WithReason(absl::NotFoundError("no such reservation"), "SOME_REASON"));
  decode_.Plan(1, {Behaviour::kRefuse, refusal, 0});
  const std::shared_ptr<HandoffSender> sender = Start(1);
  sender->Send("header");
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_TRUE(absl::IsNotFound(sender->outcome().status));
  EXPECT_EQ(ErrorReason(sender->outcome().status), "SOME_REASON");
  // Late calls of an engine that has not looked yet.
  sender->Send("more");
  sender->FinishSending();
  sender->Cancel();
  EXPECT_EQ(sender->queued_bytes(), 0);
}

TEST_F(HandoffSenderTest, ADeadReceiverIsNoticedWithoutAWrite) {
  decode_.Plan(1, {Behaviour::kStall, grpc::Status::OK, 0});
  const std::shared_ptr<HandoffSender> sender = Start(1);
  sender->Send("header");
  ASSERT_TRUE(decode_.WaitForMessages(1, 1));
  EXPECT_FALSE(sender->over());
  decode_.Die();
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_FALSE(sender->outcome().status.ok());
}

TEST_F(HandoffSenderTest, AnUnreachableEndpointEndsTheCall) {
  const std::string endpoint = decode_.endpoint();
  decode_.Die();
  const std::shared_ptr<HandoffSender> sender = StartTo(endpoint, 1);
  sender->Send("header");
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_TRUE(absl::IsUnavailable(sender->outcome().status)) << sender->outcome().status;
}

TEST_F(HandoffSenderTest, AStalledReceiverLeavesFramesQueuedUntilItReads) {
  decode_.Plan(1, {Behaviour::kStall, grpc::Status::OK, 5});
  const std::shared_ptr<HandoffSender> sender = Start(1);
  constexpr int kFrames = 64;
  const std::string frame(256 << 10, 'f');
  for (int i = 0; i < kFrames; ++i) sender->Send(frame);
  sender->FinishSending();
  ASSERT_TRUE(decode_.WaitForMessages(1, 1));
  EXPECT_GT(sender->queued_bytes(), 0);
  EXPECT_FALSE(sender->over());
  const int wakes_before = *wakes_;
  sender->WakeBelow(0);
  EXPECT_EQ(*wakes_, wakes_before) << "not written yet";
  decode_.Release(1);
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_TRUE(Eventually([&] { return *wakes_ >= wakes_before + 2; })) << "one for the room, one for the end";
  EXPECT_TRUE(sender->outcome().status.ok()) << sender->outcome().status;
  EXPECT_EQ(decode_.Get(1).bytes.size(), kFrames * frame.size());
}

TEST_F(HandoffSenderTest, CancelEndsAStalledCall) {
  decode_.Plan(1, {Behaviour::kStall, grpc::Status::OK, 0});
  const std::shared_ptr<HandoffSender> sender = Start(1);
  for (int i = 0; i < 64; ++i) sender->Send(std::string(256 << 10, 'f'));
  ASSERT_TRUE(decode_.WaitForMessages(1, 1));
  sender->Cancel();
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_TRUE(absl::IsCancelled(sender->outcome().status)) << sender->outcome().status;
  EXPECT_EQ(sender->queued_bytes(), 0);
  ASSERT_TRUE(decode_.WaitForEnd(1));
  EXPECT_TRUE(decode_.Get(1).cancelled);
  sender->Cancel();
}

TEST_F(HandoffSenderTest, WakeBelowRingsAtOnceWhenThereIsRoom) {
  const std::shared_ptr<HandoffSender> sender = Start(1);
  sender->WakeBelow(100);
  EXPECT_EQ(*wakes_, 1);
  sender->Cancel();
  ASSERT_TRUE(WaitForOver(*sender));
}

TEST_F(HandoffSenderTest, ADelayedWriteArrives) {
  decode_.Plan(1, {Behaviour::kAccept, grpc::Status::OK, 3});
  HandoffSenderOptions options;
  options.write_delay = absl::Milliseconds(1);
  const std::shared_ptr<HandoffSender> sender = Start(1, options);
  for (int i = 0; i < 5; ++i) sender->Send("frames");
  sender->FinishSending();
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_EQ(sender->outcome().position, 3);
  EXPECT_EQ(decode_.Get(1).bytes.size(), 30u);
}

TEST_F(HandoffSenderTest, CancelDuringTheDelay) {
  HandoffSenderOptions options;
  options.write_delay = absl::Hours(1);
  std::shared_ptr<HandoffSender> sender = Start(1, options);
  sender->Send("frames");
  sender->Cancel();
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_EQ(sender->outcome().bytes, 0);
  EXPECT_EQ(sender->outcome().first_write, absl::InfiniteFuture());
  // The alarm does not keep it alive.
  std::weak_ptr<HandoffSender> weak = sender;
  sender.reset();
  EXPECT_TRUE(Eventually([&] { return weak.expired(); }));
}

TEST_F(HandoffSenderTest, TheDeadlineEndsTheCall) {
  decode_.Plan(1, {Behaviour::kStall, grpc::Status::OK, 0});
  HandoffSenderOptions options;
  options.deadline = std::chrono::system_clock::now() + std::chrono::milliseconds(50);
  const std::shared_ptr<HandoffSender> sender = Start(1, options);
  sender->Send("header");
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_TRUE(absl::IsDeadlineExceeded(sender->outcome().status)) << sender->outcome().status;
}

}  // namespace
}  // namespace baton
