#include "common/rpc/handoff_sender.h"

#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <utility>
#include <vector>

#include "common/rpc/channel.h"
#include "common/rpc/status_mapping.h"
#include "tests/common/rpc/fake_decode.h"
#include "tests/common/state/test_states.h"

namespace baton {
namespace {

using Behaviour = FakeDecode::Behaviour;

constexpr int64_t kTokens = 64 * 64;

class HandoffSenderTest : public ::testing::Test {
 protected:
  // 16 MiB in pages of 256 KiB: far more than fits anywhere between two processes.
  HandoffSenderTest() : layout_(MakeLayout({GlobalLayer(4, 256)}, ElementType::kBF16, /*page_tokens=*/64, kTokens)) {
    auto* state = new SequenceState(MakeState(layout_, budget_, kTokens));
    RunTokens(*state, kTokens);
    state_ = std::shared_ptr<SequenceState>(state);
    StateCutter cutter(*layout_, kTokens);
    cutter.AllLayersDone(*state, &pieces_);
  }

  std::shared_ptr<HandoffSender> Start(uint64_t id, HandoffSenderOptions options = {}) {
    return StartTo(decode_.endpoint(), id, options);
  }
  std::shared_ptr<HandoffSender> StartTo(const std::string& endpoint, uint64_t id, HandoffSenderOptions options = {}) {
    worker::v1::Handoff target;
    target.set_endpoint(endpoint);
    target.set_boot_id("boot");
    target.set_reservation_id(id);
    target.set_generation(7);
    peer_ = std::make_shared<DecodePeer>(NewChannel(endpoint), int64_t{4} << 20);
    return HandoffSender::Start(peer_, HeadOf(target), {TestFingerprint(), layout_, kTokens, state_}, options,
                                [wakes = wakes_] { ++*wakes; });
  }
  void SendAll(HandoffSender& sender) {
    for (const StatePiece& piece : pieces_) sender.Send({piece});
    sender.Commit({{.id = 9}});
  }
  static bool WaitForOver(const HandoffSender& sender) {
    return Eventually([&] { return sender.over(); });
  }
  // What has come is the state.
  void ExpectState(const std::string& bytes) {
    SequenceState received = MakeState(layout_, budget_, kTokens + 1);
    StateReader reader(TestFingerprint(), &received);
    ASSERT_TRUE(reader.Feed(bytes).ok()) << reader.Feed("");
    ASSERT_TRUE(reader.committed());
    EXPECT_EQ(reader.commit().first_tokens[0].id, 9);
    EXPECT_TRUE(VisibleBytes(received) == VisibleBytes(*state_));
  }

  MemoryBudget budget_{int64_t{1} << 30};
  std::shared_ptr<const StateLayout> layout_;
  std::shared_ptr<SequenceState> state_;
  std::vector<StatePiece> pieces_;
  FakeDecode decode_;
  std::shared_ptr<DecodePeer> peer_;
  std::shared_ptr<std::atomic<int>> wakes_ = std::make_shared<std::atomic<int>>(0);
};

TEST_F(HandoffSenderTest, TheStateArrivesAndTheAnswerComesBack) {
  decode_.Plan(1, {Behaviour::kAccept, grpc::Status::OK, 42});
  const std::shared_ptr<HandoffSender> sender = Start(1);
  SendAll(*sender);
  ASSERT_TRUE(WaitForOver(*sender));
  const HandoffOutcome outcome = sender->outcome();
  EXPECT_TRUE(outcome.status.ok()) << outcome.status;
  EXPECT_EQ(outcome.position, 42);
  EXPECT_EQ(outcome.shared_bytes, 0);
  EXPECT_LE(outcome.first_write, outcome.ended);
  EXPECT_EQ(sender->queued_bytes(), 0);
  EXPECT_TRUE(Eventually([&] { return *wakes_ == 1; }));
  EXPECT_EQ(peer_->credit.taken(), 0);
  const FakeDecode::Received received = decode_.Get(1);
  EXPECT_EQ(outcome.bytes, static_cast<int64_t>(received.bytes.size()));
  EXPECT_EQ(received.first.generation(), 7u);
  EXPECT_EQ(received.first.boot_id(), "boot");
  EXPECT_FALSE(received.first.has_offer());
  ExpectState(received.bytes);
}

// An offer that nobody answers changes nothing.
TEST_F(HandoffSenderTest, AnUnansweredOfferIsNoHindrance) {
  decode_.Plan(1, {Behaviour::kAccept, grpc::Status::OK, 42});
  HandoffSenderOptions options;
  options.offer_shared_memory = true;
  const std::shared_ptr<HandoffSender> sender = Start(1, options);
  SendAll(*sender);
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_TRUE(sender->outcome().status.ok()) << sender->outcome().status;
  EXPECT_EQ(sender->outcome().shared_bytes, 0);
  const FakeDecode::Received received = decode_.Get(1);
  EXPECT_TRUE(received.first.has_offer());
  ExpectState(received.bytes);
}

// The state lives as long as pieces of it wait, and no longer.
TEST_F(HandoffSenderTest, TheStateIsLetGoWhenItIsWritten) {
  decode_.Plan(1, {Behaviour::kStall, grpc::Status::OK, 42});
  const std::shared_ptr<HandoffSender> sender = Start(1);
  std::weak_ptr<SequenceState> state = state_;
  const std::string bytes = VisibleBytes(*state_);
  SendAll(*sender);
  state_.reset();
  ASSERT_TRUE(decode_.WaitForMessages(1, 1));
  EXPECT_FALSE(state.expired());
  decode_.Release(1);
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_TRUE(Eventually([&] { return state.expired(); }));
  EXPECT_TRUE(Eventually([&] { return budget_.used() == 0; }));
  SequenceState received = MakeState(layout_, budget_, kTokens + 1);
  StateReader reader(TestFingerprint(), &received);
  ASSERT_TRUE(reader.Feed(decode_.Get(1).bytes).ok());
  EXPECT_TRUE(VisibleBytes(received) == bytes);
}

// Nothing is being written when the receiver ends the call: the sender learns of it all the same.
TEST_F(HandoffSenderTest, ARefusalIsNoticedWithoutAWrite) {
  grpc::Status refusal = ToGrpcStatus(WithReason(absl::NotFoundError("no such reservation"), "SOME_REASON"));
  decode_.Plan(1, {Behaviour::kRefuse, refusal, 0});
  const std::shared_ptr<HandoffSender> sender = Start(1);
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_TRUE(absl::IsNotFound(sender->outcome().status));
  EXPECT_EQ(ErrorReason(sender->outcome().status), "SOME_REASON");
  // Late calls of an engine that has not looked yet.
  SendAll(*sender);
  sender->Cancel();
  EXPECT_EQ(sender->queued_bytes(), 0);
  EXPECT_EQ(peer_->credit.taken(), 0);
}

TEST_F(HandoffSenderTest, ADeadReceiverIsNoticedWithoutAWrite) {
  decode_.Plan(1, {Behaviour::kStall, grpc::Status::OK, 0});
  const std::shared_ptr<HandoffSender> sender = Start(1);
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
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_TRUE(absl::IsUnavailable(sender->outcome().status)) << sender->outcome().status;
}

TEST_F(HandoffSenderTest, AStalledReceiverLeavesPiecesQueuedUntilItReads) {
  decode_.Plan(1, {Behaviour::kStall, grpc::Status::OK, 5});
  const std::shared_ptr<HandoffSender> sender = Start(1);
  SendAll(*sender);
  ASSERT_TRUE(decode_.WaitForMessages(1, 1));
  EXPECT_GT(sender->queued_bytes(), 0);
  EXPECT_FALSE(sender->over());
  EXPECT_LE(peer_->credit.taken(), peer_->credit.bytes());
  decode_.Release(1);
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_TRUE(sender->outcome().status.ok()) << sender->outcome().status;
  ExpectState(decode_.Get(1).bytes);
}

TEST_F(HandoffSenderTest, CancelEndsAStalledCall) {
  decode_.Plan(1, {Behaviour::kStall, grpc::Status::OK, 0});
  const std::shared_ptr<HandoffSender> sender = Start(1);
  SendAll(*sender);
  ASSERT_TRUE(decode_.WaitForMessages(1, 1));
  sender->Cancel();
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_TRUE(absl::IsCancelled(sender->outcome().status)) << sender->outcome().status;
  EXPECT_EQ(sender->queued_bytes(), 0);
  ASSERT_TRUE(decode_.WaitForEnd(1));
  EXPECT_TRUE(decode_.Get(1).cancelled);
  sender->Cancel();
}

TEST_F(HandoffSenderTest, ADelayedWriteArrives) {
  decode_.Plan(1, {Behaviour::kAccept, grpc::Status::OK, 3});
  HandoffSenderOptions options;
  options.write_delay = absl::Milliseconds(1);
  const std::shared_ptr<HandoffSender> sender = Start(1, options);
  SendAll(*sender);
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_EQ(sender->outcome().position, 3);
  ExpectState(decode_.Get(1).bytes);
}

TEST_F(HandoffSenderTest, CancelDuringTheDelay) {
  HandoffSenderOptions options;
  options.write_delay = absl::Hours(1);
  std::shared_ptr<HandoffSender> sender = Start(1, options);
  SendAll(*sender);
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
  ASSERT_TRUE(WaitForOver(*sender));
  EXPECT_TRUE(absl::IsDeadlineExceeded(sender->outcome().status)) << sender->outcome().status;
}

}  // namespace
}  // namespace baton
