// Everything that can go wrong between a prefill worker and a reservation. Whatever it is, both calls end with a clear
// status, other sequences do not notice, and all memory comes back.
#include <atomic>
#include <random>
#include <thread>

#include "common/rpc/status_mapping.h"
#include "common/rpc/worker_request.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/decode/decode_worker.h"

namespace baton {
namespace {

using testing::ElementsAreArray;
using testing::HasSubstr;
using worker::v1::DecodeRequest;
using worker::v1::Reservation;

constexpr char kModel[] = "tiny-gemma2";

class HandoffTest : public testing::Test {
 protected:
  static const Expectation& Expected() {
    static const auto* expected =
        new Expectation(RunPlainLoop(kModel, MakeRequest(LoopModel(kModel), RandomPrompt(90, 1), 6)));
    return *expected;
  }

  // The worker still does what it should.
  void ExpectHealthy() {
    RunStream run(worker_.stub(), Expected().request);
    const auto reservation = run.Reserve();
    ASSERT_TRUE(reservation.has_value());
    ASSERT_TRUE(HandOver(worker_.stub(), *reservation, Expected().messages).ok());
    EXPECT_THAT(run.End().tokens, ElementsAreArray(Expected().tokens));
    ExpectNothingHeld(worker_);
  }

  // Hands `messages` over for `request`: neither call may succeed.
  void ExpectRejected(const DecodeRequest& request, const std::vector<std::string>& messages,
                      std::initializer_list<absl::StatusCode> sender_codes, absl::StatusCode run_code,
                      const std::string& reason) {
    RunStream run(worker_.stub(), request);
    const auto reservation = run.Reserve();
    ASSERT_TRUE(reservation.has_value());
    const absl::Status answer = HandOver(worker_.stub(), *reservation, messages);
    EXPECT_THAT(sender_codes, testing::Contains(answer.code())) << answer;
    EXPECT_EQ(ErrorReason(answer), reason);
    const RunStream::Result result = run.End();
    EXPECT_EQ(result.status.code(), run_code) << result.status;
    EXPECT_EQ(ErrorReason(result.status), reason);
    EXPECT_TRUE(result.tokens.empty());
    EXPECT_FALSE(result.reason.has_value());
    ExpectNothingHeld(worker_);
  }

  DecodeWorker worker_{DecodeWorkerOptions{.model = kModel}};
};

TEST_F(HandoffTest, StateOfAnotherModelIsRefused) {
  const DecodeRequest other = MakeRequest(LoopModel("tiny-recurrentgemma"), RandomPrompt(90, 1), 6);
  ExpectRejected(Expected().request, RunPlainLoop("tiny-recurrentgemma", other).messages,
                 {absl::StatusCode::kFailedPrecondition}, absl::StatusCode::kFailedPrecondition,
                 "FINGERPRINT_MISMATCH");
  EXPECT_EQ(worker_.Metric("baton_handoff_failures_total", "refused"), 1);
  ExpectHealthy();
}

TEST_F(HandoffTest, AFlippedBitAnywhereIsCaught) {
  std::mt19937_64 random(7);
  constexpr int kTries = 40;
  for (int i = 0; i < kTries; ++i) {
    std::vector<std::string> messages = Expected().messages;
    // Not the very first frame's fingerprint, which is another kind of error.
    std::string& message = messages[1 + random() % (messages.size() - 1)];
    message[random() % message.size()] ^= static_cast<char>(1 << (random() % 8));
    ExpectRejected(Expected().request, messages, {absl::StatusCode::kDataLoss, absl::StatusCode::kInvalidArgument},
                   absl::StatusCode::kDataLoss, "STATE_CORRUPT");
  }
  EXPECT_EQ(worker_.Metric("baton_handoff_failures_total", "corrupt"), kTries);
  EXPECT_EQ(worker_.Metric("baton_sequences_finished_total", "failed"), kTries);
  EXPECT_EQ(worker_.Metric("baton_generation_tokens_total"), 0);
  ExpectHealthy();
}

TEST_F(HandoffTest, MissingAndRepeatedMessagesAreCaught) {
  ASSERT_GE(Expected().messages.size(), 4u);
  std::vector<std::string> missing = Expected().messages;
  missing.erase(missing.begin() + 2);
  ExpectRejected(Expected().request, missing, {absl::StatusCode::kInvalidArgument}, absl::StatusCode::kDataLoss,
                 "STATE_CORRUPT");
  std::vector<std::string> repeated = Expected().messages;
  repeated.insert(repeated.begin() + 2, repeated[1]);
  ExpectRejected(Expected().request, repeated, {absl::StatusCode::kInvalidArgument}, absl::StatusCode::kDataLoss,
                 "STATE_CORRUPT");
  ExpectHealthy();
}

TEST_F(HandoffTest, CommitsThatDoNotFitTheRequestAreCaught) {
  const auto expect_rejected = [&](const DecodeRequest& request, const std::vector<std::string>& messages) {
    ExpectRejected(request, messages, {absl::StatusCode::kInvalidArgument}, absl::StatusCode::kDataLoss,
                   "STATE_CORRUPT");
  };
  // The state of a shorter prompt.
  const DecodeRequest shorter = MakeRequest(LoopModel(kModel), RandomPrompt(80, 1), 6);
  expect_rejected(Expected().request, RunPlainLoop(kModel, shorter).messages);
  // A first token that is none.
  expect_rejected(Expected().request, RunPlainLoop(kModel, Expected().request, {MakeFirstTokenRecord(2048)}).messages);
  // A first token that ends the sequence, so that there is nothing to hand over.
  DecodeRequest stop = Expected().request;
  stop.mutable_stopping()->add_stop_token_ids(Expected().first_token);
  expect_rejected(stop, Expected().messages);
  DecodeRequest one = Expected().request;
  one.mutable_stopping()->set_max_new_tokens(1);
  expect_rejected(one, Expected().messages);
  ExpectHealthy();
}

TEST_F(HandoffTest, ASecondSenderIsRefusedAndTheFirstGoesOn) {
  RunStream run(worker_.stub(), Expected().request);
  const auto reservation = run.Reserve();
  ASSERT_TRUE(reservation.has_value());
  Sender first(worker_.stub());
  ASSERT_TRUE(first.Send(*reservation, Expected().messages[0]));
  WaitUntil([&] { return worker_.Metric("baton_handoff_bytes_total") > 0; });
  EXPECT_EQ(HandOver(worker_.stub(), *reservation, Expected().messages).code(), absl::StatusCode::kAlreadyExists);
  for (size_t i = 1; i < Expected().messages.size(); ++i) {
    ASSERT_TRUE(first.Send(*reservation, Expected().messages[i]));
  }
  EXPECT_TRUE(first.End().ok());
  EXPECT_EQ(first.response().position(), 90);
  // Once the state is complete nobody may send it again.
  EXPECT_EQ(HandOver(worker_.stub(), *reservation, Expected().messages).code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(run.End().tokens, ElementsAreArray(Expected().tokens));
  ExpectNothingHeld(worker_);
  EXPECT_EQ(worker_.Metric("baton_handoff_failures_total", "refused"), 2);
}

TEST_F(HandoffTest, LateAndMisaddressedSendersFindNothing) {
  Reservation old;
  {
    RunStream cancelled(worker_.stub(), Expected().request);
    old = *cancelled.Reserve();
  }
  ExpectNothingHeld(worker_);
  // The slot is used again.
  RunStream run(worker_.stub(), Expected().request);
  const auto reservation = run.Reserve();
  ASSERT_TRUE(reservation.has_value());
  ASSERT_EQ(reservation->reservation_id(), old.reservation_id());
  EXPECT_GT(reservation->generation(), old.generation());

  const auto expect_not_found = [&](const Reservation& to) {
    EXPECT_EQ(HandOver(worker_.stub(), to, Expected().messages).code(), absl::StatusCode::kNotFound);
  };
  expect_not_found(old);
  Reservation wrong = *reservation;
  wrong.set_boot_id("0123456789abcdef");
  expect_not_found(wrong);
  for (const uint64_t id : {uint64_t{0}, uint64_t{2}, uint64_t{1} << 63, ~uint64_t{0}}) {
    wrong = *reservation;
    wrong.set_reservation_id(id);
    expect_not_found(wrong);
  }
  wrong = *reservation;
  wrong.set_generation(reservation->generation() + 1);
  expect_not_found(wrong);

  ASSERT_TRUE(HandOver(worker_.stub(), *reservation, Expected().messages).ok());
  EXPECT_THAT(run.End().tokens, ElementsAreArray(Expected().tokens));
  ExpectNothingHeld(worker_);
}

TEST_F(HandoffTest, AStreamThatChangesItsReservationIsCaught) {
  RunStream run(worker_.stub(), Expected().request);
  RunStream bystander(worker_.stub(), Expected().request);
  const auto reservation = run.Reserve();
  const auto other = bystander.Reserve();
  ASSERT_TRUE(reservation.has_value() && other.has_value());
  Sender sender(worker_.stub());
  sender.Send(*reservation, Expected().messages[0]);
  sender.Send(*other, Expected().messages[1]);
  EXPECT_EQ(sender.End().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(run.End().status.code(), absl::StatusCode::kDataLoss);
  ASSERT_TRUE(HandOver(worker_.stub(), *other, Expected().messages).ok());
  EXPECT_THAT(bystander.End().tokens, ElementsAreArray(Expected().tokens));
  ExpectNothingHeld(worker_);
}

TEST_F(HandoffTest, ASenderThatGoesAwayEndsTheRun) {
  for (const bool cancel : {true, false}) {
    for (const size_t messages : {size_t{1}, Expected().messages.size() - 1}) {
      RunStream run(worker_.stub(), Expected().request);
      const auto reservation = run.Reserve();
      ASSERT_TRUE(reservation.has_value());
      const double bytes_before = worker_.Metric("baton_handoff_bytes_total");
      {
        Sender sender(worker_.stub());
        for (size_t i = 0; i < messages; ++i) ASSERT_TRUE(sender.Send(*reservation, Expected().messages[i]));
        WaitUntil([&] { return worker_.Metric("baton_handoff_bytes_total") > bytes_before; });
        if (!cancel) {
          EXPECT_EQ(sender.End().code(), absl::StatusCode::kCancelled);
        }
      }
      const RunStream::Result result = run.End();
      EXPECT_EQ(result.status.code(), absl::StatusCode::kUnavailable) << result.status;
      EXPECT_EQ(ErrorReason(result.status), "HANDOFF_FAILED");
      ExpectNothingHeld(worker_);
    }
  }
  EXPECT_EQ(worker_.Metric("baton_handoff_failures_total", "unreachable"), 4);
  ExpectHealthy();
}

// The sender is silent, so only the worker can end its call.
TEST_F(HandoffTest, ARunThatIsCancelledEndsItsSender) {
  RunStream run(worker_.stub(), Expected().request);
  const auto reservation = run.Reserve();
  ASSERT_TRUE(reservation.has_value());
  Sender sender(worker_.stub());
  ASSERT_TRUE(sender.Send(*reservation, Expected().messages[0]));
  WaitUntil([&] { return worker_.Metric("baton_handoff_bytes_total") > 0; });
  EXPECT_GT(worker_.budget().used(), 0);
  run.Cancel();
  const absl::Status answer = sender.Wait();
  EXPECT_EQ(answer.code(), absl::StatusCode::kNotFound) << answer;
  EXPECT_EQ(run.End().status.code(), absl::StatusCode::kCancelled);
  ExpectNothingHeld(worker_);
  WaitUntil([&] { return worker_.Metric("baton_handoff_failures_total", "cancelled") == 1; });
  ExpectHealthy();
}

TEST_F(HandoffTest, ARunThatEndsBeforeAnySenderCameFreesItsMemory) {
  for (const bool by_deadline : {false, true}) {
    RunStream run(worker_.stub(), Expected().request, by_deadline ? absl::Seconds(1) : absl::InfiniteDuration());
    ASSERT_TRUE(run.Reserve().has_value());
    if (!by_deadline) run.Cancel();
    EXPECT_EQ(run.End().status.code(),
              by_deadline ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kCancelled);
    ExpectNothingHeld(worker_);
  }
  EXPECT_EQ(worker_.Metric("baton_sequences_finished_total", "cancelled"), 2);
}

// Both sides end at any moment, over and over, while a bystander decodes.
TEST_F(HandoffTest, EndsAtAnyMomentAreSafe) {
  std::atomic<bool> stop{false};
  std::thread bystander([&] {
    while (!stop.load()) {
      RunStream run(worker_.stub(), Expected().request);
      const auto reservation = run.Reserve();
      ASSERT_TRUE(reservation.has_value());
      ASSERT_TRUE(HandOver(worker_.stub(), *reservation, Expected().messages).ok());
      EXPECT_THAT(run.End().tokens, ElementsAreArray(Expected().tokens));
    }
  });
  std::vector<std::thread> pairs;
  for (int t = 0; t < 4; ++t) {
    pairs.emplace_back([&, t] {
      std::mt19937_64 random(t);
      const auto prefill_stub = worker_.NewStub();
      for (int i = 0; i < 40; ++i) {
        RunStream run(worker_.stub(), Expected().request);
        const auto reservation = run.Reserve();
        ASSERT_TRUE(reservation.has_value());
        const size_t messages = random() % (Expected().messages.size() + 1);
        const bool run_goes = random() % 2 == 0;
        std::thread prefill([&] {
          Sender sender(*prefill_stub);
          for (size_t m = 0; m < messages; ++m) {
            if (!sender.Send(*reservation, Expected().messages[m])) break;
          }
        });
        if (run_goes) {
          for (uint64_t spin = random() % 20000; spin > 0; --spin) std::atomic_signal_fence(std::memory_order_seq_cst);
          run.Cancel();
        }
        prefill.join();
      }
    });
  }
  for (std::thread& pair : pairs) pair.join();
  stop.store(true);
  bystander.join();
  ExpectNothingHeld(worker_);
}

}  // namespace
}  // namespace baton
