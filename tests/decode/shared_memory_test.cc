// State that comes through shared memory, and senders that mean ill with it.
#include "common/base/shared_memory.h"

#include <cstring>
#include <string>
#include <vector>

#include "common/rpc/status_mapping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/decode/decode_worker.h"

namespace baton {
namespace {

using testing::ElementsAreArray;
using worker::v1::ReceiveResponse;
using worker::v1::StateChunk;

constexpr char kModel[] = "tiny-gemma2";
constexpr int64_t kBytes = int64_t{4} << 20;

// A sender with memory to share, by hand.
class SharingSender {
 public:
  SharingSender(worker::v1::Decode::Stub& stub, const worker::v1::Reservation& reservation)
      : memory_(SharedMemory::Create(kBytes).value()), stream_(stub.Receive(&context_)) {
    EXPECT_TRUE(memory_.Allocate().ok());
    first_.set_reservation_id(reservation.reservation_id());
    first_.set_generation(reservation.generation());
    first_.set_boot_id(reservation.boot_id());
    first_.mutable_offer()->set_process(memory_.name().process);
    first_.mutable_offer()->set_file(memory_.name().descriptor);
    first_.mutable_offer()->set_nonce(memory_.name().nonce);
    first_.mutable_offer()->set_bytes(static_cast<uint64_t>(memory_.name().bytes));
  }
  ~SharingSender() {
    if (ended_) return;
    context_.TryCancel();
    EXPECT_FALSE(End().ok());
  }

  StateChunk& first() { return first_; }
  bool SendFirst(const std::string& data) {
    first_.set_data(data);
    return stream_->Write(first_);
  }
  ReceiveResponse Answer() {
    ReceiveResponse answer;
    EXPECT_TRUE(stream_->Read(&answer));
    return answer;
  }
  // Places the frames and names them.
  bool Share(const std::string& frames) {
    std::memcpy(memory_.data() + offset_, frames.data(), frames.size());
    const bool sent = SendRange(offset_, frames.size());
    offset_ += static_cast<int64_t>(frames.size());
    return sent;
  }
  bool SendRange(uint64_t offset, uint64_t length) {
    StateChunk chunk;
    chunk.add_shared()->set_offset(offset);
    chunk.mutable_shared(0)->set_length(length);
    return stream_->Write(chunk);
  }
  absl::Status End() {
    ended_ = true;
    stream_->WritesDone();
    ReceiveResponse answer;
    while (stream_->Read(&answer)) last_ = answer;
    return FromGrpcStatus(stream_->Finish());
  }
  const ReceiveResponse& last() const { return last_; }

 private:
  SharedMemory memory_;
  grpc::ClientContext context_;
  StateChunk first_;
  std::unique_ptr<grpc::ClientReaderWriter<StateChunk, ReceiveResponse>> stream_;
  int64_t offset_ = kSharedMemoryDataOffset;
  ReceiveResponse last_;
  bool ended_ = false;
};

class SharedMemoryHandoffTest : public testing::Test {
 protected:
  static const Expectation& Expected() {
    static const auto* expected =
        new Expectation(RunPlainLoop(kModel, MakeRequest(LoopModel(kModel), RandomPrompt(90, 1), 6)));
    return *expected;
  }
  DecodeWorker worker_{DecodeWorkerOptions{.model = kModel}};
};

TEST_F(SharedMemoryHandoffTest, StateArrives) {
  RunStream run(worker_.stub(), Expected().request);
  SharingSender sender(worker_.stub(), *run.Reserve());
  const std::vector<std::string>& messages = Expected().messages;
  ASSERT_TRUE(sender.SendFirst(messages[0]));
  EXPECT_EQ(sender.Answer().shared_memory(), ReceiveResponse::SHARED_MEMORY_ACCEPTED);
  uint64_t shared = 0;
  for (size_t i = 1; i < messages.size(); ++i) {
    ASSERT_TRUE(sender.Share(messages[i]));
    shared += messages[i].size();
  }
  const absl::Status status = sender.End();
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(sender.last().position(), 90);
  EXPECT_EQ(sender.last().shared_bytes_read(), shared);
  EXPECT_THAT(run.End().tokens, ElementsAreArray(Expected().tokens));
  ExpectNothingHeld(worker_);
}

// Until all of a message has been read, its memory is the receiver's: the answers say so.
TEST_F(SharedMemoryHandoffTest, AnswersFollowTheReading) {
  RunStream run(worker_.stub(), Expected().request);
  SharingSender sender(worker_.stub(), *run.Reserve());
  ASSERT_TRUE(sender.SendFirst(Expected().messages[0]));
  EXPECT_EQ(sender.Answer().shared_bytes_read(), 0u);
  uint64_t shared = 0;
  for (size_t i = 1; i + 1 < Expected().messages.size(); ++i) {
    ASSERT_TRUE(sender.Share(Expected().messages[i]));
    shared += Expected().messages[i].size();
    EXPECT_EQ(sender.Answer().shared_bytes_read(), shared);
  }
}

TEST_F(SharedMemoryHandoffTest, OffersThatCannotBeOpenedAreRefusedAndTheStreamGoesOn) {
  const auto spoil = std::vector<void (*)(worker::v1::SharedMemoryOffer*)>{
      [](auto* offer) { offer->set_process(1 << 30); },
      [](auto* offer) { offer->set_process(-1); },
      [](auto* offer) { offer->set_file(0); },
      [](auto* offer) { offer->set_file(-5); },
      [](auto* offer) { offer->set_nonce("guess"); },
      [](auto* offer) { offer->set_nonce(std::string(32, 'x')); },
      [](auto* offer) { offer->set_bytes(~uint64_t{0}); },
      [](auto* offer) { offer->set_bytes(0); },
      [](auto* offer) { offer->Clear(); },
  };
  for (const auto& change : spoil) {
    RunStream run(worker_.stub(), Expected().request);
    SharingSender sender(worker_.stub(), *run.Reserve());
    change(sender.first().mutable_offer());
    ASSERT_TRUE(sender.SendFirst(Expected().messages[0]));
    EXPECT_EQ(sender.Answer().shared_memory(), ReceiveResponse::SHARED_MEMORY_REFUSED);
    sender.SendRange(kSharedMemoryDataOffset, 16);
    EXPECT_EQ(sender.End().code(), absl::StatusCode::kInvalidArgument) << "it was not accepted";
    EXPECT_EQ(run.End().status.code(), absl::StatusCode::kDataLoss);
    ExpectNothingHeld(worker_);
  }
}

TEST_F(SharedMemoryHandoffTest, RangesOutsideAreRefused) {
  constexpr uint64_t kMax = ~uint64_t{0};
  const std::pair<uint64_t, uint64_t> ranges[] = {
      {0, 16}, {kBytes, 1}, {kBytes - 8, 16}, {kMax, 1}, {kMax - 8, 16}, {kSharedMemoryDataOffset, kMax}, {64, kBytes}};
  for (const auto& [offset, length] : ranges) {
    RunStream run(worker_.stub(), Expected().request);
    SharingSender sender(worker_.stub(), *run.Reserve());
    ASSERT_TRUE(sender.SendFirst(Expected().messages[0]));
    sender.SendRange(offset, length);
    EXPECT_EQ(sender.End().code(), absl::StatusCode::kInvalidArgument) << offset << " " << length;
    EXPECT_EQ(run.End().status.code(), absl::StatusCode::kDataLoss);
    ExpectNothingHeld(worker_);
  }
}

TEST_F(SharedMemoryHandoffTest, DamageInTheMemoryIsCaught) {
  RunStream run(worker_.stub(), Expected().request);
  SharingSender sender(worker_.stub(), *run.Reserve());
  ASSERT_TRUE(sender.SendFirst(Expected().messages[0]));
  std::string damaged = Expected().messages[1];
  damaged[damaged.size() / 2] ^= 1;
  sender.Share(damaged);
  EXPECT_EQ(sender.End().code(), absl::StatusCode::kDataLoss);
  EXPECT_EQ(run.End().status.code(), absl::StatusCode::kDataLoss);
  ExpectNothingHeld(worker_);
}

TEST_F(SharedMemoryHandoffTest, ASenderThatGoesAwayLeavesNothing) {
  for (int i = 0; i < 20; ++i) {
    RunStream run(worker_.stub(), Expected().request);
    const double bytes_before = worker_.Metric("baton_handoff_bytes_total");
    {
      SharingSender sender(worker_.stub(), *run.Reserve());
      ASSERT_TRUE(sender.SendFirst(Expected().messages[0]));
      if (i % 2 == 0) sender.Answer();
      sender.Share(Expected().messages[1]);
      WaitUntil([&] { return worker_.Metric("baton_handoff_bytes_total") > bytes_before; });
    }
    EXPECT_EQ(run.End().status.code(), absl::StatusCode::kUnavailable);
    ExpectNothingHeld(worker_);
  }
}

}  // namespace
}  // namespace baton
