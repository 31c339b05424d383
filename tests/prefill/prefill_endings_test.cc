// Every way in which a prefill call can end before it is done, and waiting in all its forms: the caller gets a clear
// status, other calls go on, and everything that was reserved is given back.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <memory>
#include <random>
#include <thread>
#include <vector>

#include "common/state/state_codec.h"
#include "tests/prefill/service_fixture.h"

namespace baton {
namespace {

using Behaviour = FakeDecode::Behaviour;
using worker::v1::PrefillRequest;

TEST(PrefillEndingsTest, AFullQueueRefusesWithWhenToComeBack) {
  TestWorkerOptions options = SlowOptions();
  options.engine.max_queue = 2;
  TestPrefillWorker worker(&WorkerModel(), options);
  std::vector<std::unique_ptr<PrefillStream>> streams;
  // Each longer than the one before, so that none is let in between.
  for (int i = 0; i < 3; ++i) {
    streams.push_back(worker.Start(worker.Request(RandomPrompt(OwnModel(), 1500 + i, i))));
    ASSERT_TRUE(worker.WaitForLoad(1, i));
  }
  const PrefillResult refused = worker.Run(worker.Request(RandomPrompt(OwnModel(), 10, 7)));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(refused.reason(), "QUEUE_FULL");
  EXPECT_GT(RetryDelay(refused.absl_status()), absl::ZeroDuration());
  EXPECT_GE(worker.load().Snapshot().queued_tokens(), 3001);
  for (auto& stream : streams) stream->Cancel();
  for (auto& stream : streams) {
    EXPECT_EQ(stream->ReadAll().status.error_code(), grpc::StatusCode::CANCELLED);
  }
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_TRUE(worker.Run(worker.Request(RandomPrompt(OwnModel(), 10, 7))).status.ok()) << "there is room again";
}

TEST(PrefillEndingsTest, CancelInTheQueue) {
  TestPrefillWorker worker(&WorkerModel(), SlowOptions());
  const auto running = worker.Start(worker.Request(RandomPrompt(OwnModel(), 1500, 1)));
  ASSERT_TRUE(worker.WaitForLoad(1, 0));
  const auto queued = worker.Start(worker.Request(RandomPrompt(OwnModel(), 1600, 2)));
  ASSERT_TRUE(worker.WaitForLoad(1, 1));
  queued->Cancel();
  EXPECT_EQ(queued->ReadAll().status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(worker.WaitForLoad(1, 0)) << "the other one goes on";
  running->Cancel();
  EXPECT_EQ(running->ReadAll().status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_LT(worker.tokens_done(), 1500);
  EXPECT_EQ(worker.MetricSum("baton_sequences_finished_total", "reason", "cancelled"), 2);
}

TEST(PrefillEndingsTest, CancelWhileComputing) {
  TestPrefillWorker worker(&WorkerModel(), SlowOptions());
  FakeDecode decode;
  const auto stream = worker.Start(worker.RequestTo(decode.endpoint(), 1, RandomPrompt(OwnModel(), 1500, 1)));
  ASSERT_TRUE(Eventually([&] { return worker.tokens_done() >= 24; }));
  EXPECT_GT(worker.budget().used(), 0);
  stream->Cancel();
  EXPECT_EQ(stream->ReadAll().status.error_code(), grpc::StatusCode::CANCELLED);
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_LT(worker.tokens_done(), 1500);
  ASSERT_TRUE(decode.WaitForEnd(1));
  EXPECT_TRUE(decode.Get(1).cancelled);
  EXPECT_EQ(worker.MetricSum("baton_handoff_failures_total", "reason", "cancelled"), 1);
}

TEST(PrefillEndingsTest, CancelWhileHandingOff) {
  for (Behaviour behaviour : {Behaviour::kStall, Behaviour::kStallAnswer}) {
    TestWorkerOptions options = Options(512);
    TestPrefillWorker worker(&WorkerModel(), options);
    FakeDecode decode;
    decode.Plan(1, {behaviour, grpc::Status::OK, 2000});
    const auto stream = worker.Start(worker.RequestTo(decode.endpoint(), 1, RandomPrompt(OwnModel(), 2000, 1)));
    ASSERT_TRUE(stream->ReadFirstToken()) << "it does not wait for the handoff";
    ASSERT_TRUE(decode.WaitForMessages(1, 1));
    if (behaviour == Behaviour::kStall) {
      EXPECT_GT(worker.budget().used(), 0);
    } else {
      EXPECT_TRUE(Eventually([&] { return decode.Get(1).half_closed; }));
      EXPECT_TRUE(Eventually([&] { return worker.budget().used() == 0; })) << "everything has been serialized";
    }
    EXPECT_EQ(worker.load().Snapshot().running(), 1);
    stream->Cancel();
    EXPECT_EQ(stream->ReadAll().status.error_code(), grpc::StatusCode::CANCELLED);
    EXPECT_TRUE(worker.BecomesIdle());
    ASSERT_TRUE(decode.WaitForEnd(1));
    EXPECT_TRUE(decode.Get(1).cancelled);
  }
}

TEST(PrefillEndingsTest, ADeadlineEndsTheWork) {
  TestPrefillWorker worker(&WorkerModel(), SlowOptions());
  FakeDecode decode;
  const PrefillRequest request = worker.RequestTo(decode.endpoint(), 1, RandomPrompt(OwnModel(), 2000, 1));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(200));
  auto reader = worker.stub()->Run(&context, request);
  worker::v1::PrefillEvent event;
  while (reader->Read(&event)) {
  }
  EXPECT_EQ(reader->Finish().error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_LT(worker.tokens_done(), 2000);
}

TEST(PrefillEndingsTest, ARefusedHandoffStopsTheComputation) {
  TestPrefillWorker worker(&WorkerModel(), SlowOptions());
  FakeDecode decode;
  struct Case {
    grpc::Status said;
    grpc::StatusCode reported;
    const char* reason;
    const char* counted_as;
  };
  const std::vector<Case> cases = {
      {grpc::Status(grpc::StatusCode::NOT_FOUND, "no such reservation"), grpc::StatusCode::UNAVAILABLE,
       "HANDOFF_FAILED", "refused"},
      {grpc::Status(grpc::StatusCode::CANCELLED, "its Run ended"), grpc::StatusCode::UNAVAILABLE, "HANDOFF_FAILED",
       "cancelled"},
      {grpc::Status(grpc::StatusCode::DATA_LOSS, "checksum"), grpc::StatusCode::DATA_LOSS, "STATE_CORRUPT", "corrupt"},
      {ToGrpcStatus(WithReason(absl::FailedPreconditionError("another model"), "FINGERPRINT_MISMATCH")),
       grpc::StatusCode::FAILED_PRECONDITION, "FINGERPRINT_MISMATCH", "refused"},
  };
  uint64_t id = 1;
  for (const Case& c : cases) {
    const int64_t before = worker.tokens_done();
    const double counted = worker.MetricSum("baton_handoff_failures_total", "reason", c.counted_as);
    decode.Plan(id, {Behaviour::kRefuse, c.said, 0});
    const PrefillResult result =
        worker.Run(worker.RequestTo(decode.endpoint(), id++, RandomPrompt(OwnModel(), 1500, 1)));
    EXPECT_EQ(result.status.error_code(), c.reported) << result.absl_status();
    EXPECT_EQ(result.reason(), c.reason);
    EXPECT_THAT(result.status.error_message(), ::testing::HasSubstr(c.said.error_message()));
    EXPECT_FALSE(result.first_token.has_value());
    EXPECT_LT(worker.tokens_done() - before, 1500) << "it stopped";
    EXPECT_TRUE(worker.BecomesIdle());
    EXPECT_EQ(worker.MetricSum("baton_handoff_failures_total", "reason", c.counted_as), counted + 1);
  }
}

TEST(PrefillEndingsTest, AnAnswerWithoutTheWholeStateIsNotBelieved) {
  TestPrefillWorker worker(&WorkerModel(), Options());
  FakeDecode decode;
  decode.Plan(1, {Behaviour::kRefuse, grpc::Status::OK, 0});
  decode.Plan(2, {Behaviour::kAccept, grpc::Status::OK, 49});
  for (uint64_t id : {1, 2}) {
    const PrefillResult result = worker.Run(worker.RequestTo(decode.endpoint(), id, RandomPrompt(OwnModel(), 50, 1)));
    EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE) << result.absl_status();
    EXPECT_EQ(result.reason(), "HANDOFF_FAILED");
    EXPECT_FALSE(result.done.has_value());
  }
  EXPECT_TRUE(worker.BecomesIdle());
}

TEST(PrefillEndingsTest, ADeadReceiverEndsOnlyItsOwnPrompts) {
  TestPrefillWorker worker(&WorkerModel(), SlowOptions(32));
  FakeDecode alive;
  auto dying = std::make_unique<FakeDecode>();
  dying->Plan(1, {Behaviour::kStall, grpc::Status::OK, 0});
  alive.Plan(2, {Behaviour::kAccept, grpc::Status::OK, 1600});
  const auto doomed = worker.Start(worker.RequestTo(dying->endpoint(), 1, RandomPrompt(OwnModel(), 2000, 1)));
  const auto other = worker.Start(worker.RequestTo(alive.endpoint(), 2, RandomPrompt(OwnModel(), 1600, 2)));
  ASSERT_TRUE(dying->WaitForMessages(1, 1));
  const std::string endpoint = dying->endpoint();
  dying->Die();
  const PrefillResult result = doomed->ReadAll();
  EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE) << result.absl_status();
  EXPECT_EQ(result.reason(), "HANDOFF_FAILED");
  const PrefillResult survivor = other->ReadAll();
  EXPECT_TRUE(survivor.status.ok()) << survivor.absl_status();
  EXPECT_EQ(alive.Get(2).bytes.size(), static_cast<size_t>(survivor.done->handoff_bytes()));
  EXPECT_TRUE(worker.BecomesIdle());

  const PrefillResult unreachable = worker.Run(worker.RequestTo(endpoint, 3, RandomPrompt(OwnModel(), 20, 3)));
  EXPECT_EQ(unreachable.status.error_code(), grpc::StatusCode::UNAVAILABLE) << unreachable.absl_status();
  EXPECT_EQ(unreachable.reason(), "HANDOFF_FAILED");
  EXPECT_GE(worker.MetricSum("baton_handoff_failures_total", "reason", "unreachable"), 1);
  EXPECT_TRUE(worker.BecomesIdle());
}

TEST(PrefillEndingsTest, AStalledReceiverHoldsUpNobodyElse) {
  TestWorkerOptions options = Options(256);
  TestPrefillWorker worker(&WorkerModel(), options);
  FakeDecode decode;
  decode.Plan(1, {Behaviour::kStall, grpc::Status::OK, 2000});
  decode.Plan(2, {Behaviour::kAccept, grpc::Status::OK, 1000});
  const auto stalled = worker.Start(worker.RequestTo(decode.endpoint(), 1, RandomPrompt(OwnModel(), 2000, 1)));
  ASSERT_TRUE(stalled->ReadFirstToken());
  const PrefillResult other = worker.Run(worker.RequestTo(decode.endpoint(), 2, RandomPrompt(OwnModel(), 1000, 2)));
  EXPECT_TRUE(other.status.ok()) << other.absl_status();
  EXPECT_GT(worker.budget().used(), 0) << "the stalled one still waits";

  decode.Release(1);
  const PrefillResult result = stalled->ReadAll();
  ASSERT_TRUE(result.status.ok()) << result.absl_status();
  EXPECT_TRUE(worker.BecomesIdle());
  // Rows that waited in the state are what they were.
  MemoryBudget budget(int64_t{1} << 30);
  absl::StatusOr<SequenceState> state = SequenceState::Create(OwnModel().MakeStateLayout(1), budget, 2001);
  ASSERT_TRUE(state.ok());
  StateReader reader(OwnModel().fingerprint(), &*state);
  ASSERT_TRUE(reader.Feed(decode.Get(1).bytes).ok());
  ASSERT_TRUE(reader.committed());
  EXPECT_TRUE(VisibleState(*state) == VisibleState(RunLocally(RandomPrompt(OwnModel(), 2000, 1)).state));
}

// With credit for one message, whoever stalls holds up all other handoffs to the same receiver, and nobody else.
TEST(PrefillEndingsTest, AStalledReceiverWithoutCreditHoldsUpOnlyItsOwnPair) {
  TestWorkerOptions options = Options(256);
  options.engine.handoff.credit_bytes = 1;
  TestPrefillWorker worker(&WorkerModel(), options);
  FakeDecode stalling;
  FakeDecode healthy;
  std::vector<std::unique_ptr<PrefillStream>> stalled;
  for (uint64_t id = 1; id <= 3; ++id) {
    stalling.Plan(id, {Behaviour::kStall, grpc::Status::OK, 1000});
    stalled.push_back(worker.Start(worker.RequestTo(stalling.endpoint(), id, RandomPrompt(OwnModel(), 1000, id))));
    ASSERT_TRUE(stalled.back()->ReadFirstToken()) << "computing does not wait for credit";
  }
  for (uint64_t id = 4; id <= 6; ++id) {
    healthy.Plan(id, {Behaviour::kAccept, grpc::Status::OK, 500});
    const PrefillResult result =
        worker.Run(worker.RequestTo(healthy.endpoint(), id, RandomPrompt(OwnModel(), 500, id)));
    EXPECT_TRUE(result.status.ok()) << result.absl_status();
  }
  // Any of them may have been first. Cancelled ones pass the turn on.
  stalled[1]->Cancel();
  EXPECT_FALSE(stalled[1]->ReadAll().status.ok());
  for (uint64_t id = 1; id <= 3; ++id) stalling.Release(id);
  for (int i : {0, 2}) {
    const PrefillResult result = stalled[i]->ReadAll();
    EXPECT_TRUE(result.status.ok()) << result.absl_status();
  }
  EXPECT_TRUE(worker.BecomesIdle());
}

TEST(PrefillEndingsTest, PromptsWaitForMemory) {
  TestWorkerOptions options = SlowOptions();
  options.memory = WorkerModel().MakeStateLayout(8)->BytesFor(600);
  TestPrefillWorker worker(&WorkerModel(), options);
  std::vector<std::unique_ptr<PrefillStream>> streams;
  for (int i = 0; i < 3; ++i) {
    streams.push_back(worker.Start(worker.Request(RandomPrompt(OwnModel(), 400, i))));
    // There is room for one of them at a time; the scheduler's own tests hold the order.
    ASSERT_TRUE(worker.WaitForLoad(1, i));
  }
  for (auto& stream : streams) {
    const PrefillResult result = stream->ReadAll();
    EXPECT_TRUE(result.status.ok()) << result.absl_status();
  }
  EXPECT_TRUE(worker.BecomesIdle());
}

TEST(PrefillEndingsTest, DrainingRefusesNewCallsAndFinishesOldOnes) {
  TestPrefillWorker worker(&WorkerModel(), SlowOptions(64));
  const auto running = worker.Start(worker.Request(RandomPrompt(OwnModel(), 600, 1)));
  ASSERT_TRUE(worker.WaitForLoad(1, 0));
  worker.gate().Close();
  const PrefillResult refused = worker.Run(worker.Request(RandomPrompt(OwnModel(), 10, 2)));
  EXPECT_EQ(refused.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(refused.reason(), "DRAINING");
  EXPECT_TRUE(running->ReadAll().status.ok());
  EXPECT_TRUE(worker.gate().Drain(kTestTimeout));
  EXPECT_TRUE(worker.BecomesIdle());
}

TEST(PrefillEndingsTest, StoppingTheEngineEndsEveryCall) {
  TestPrefillWorker worker(&WorkerModel(), SlowOptions());
  FakeDecode decode;
  const auto running = worker.Start(worker.RequestTo(decode.endpoint(), 1, RandomPrompt(OwnModel(), 1500, 1)));
  // Calls on one channel may arrive in either order, and two that arrive together both begin.
  ASSERT_TRUE(worker.WaitForLoad(1, 0));
  const auto queued = worker.Start(worker.Request(RandomPrompt(OwnModel(), 1600, 2)));
  ASSERT_TRUE(worker.WaitForLoad(1, 1));
  worker.engine().Stop();
  for (const auto* stream : {&running, &queued}) {
    const PrefillResult result = (*stream)->ReadAll();
    EXPECT_EQ(result.status.error_code(), grpc::StatusCode::UNAVAILABLE);
    EXPECT_EQ(result.reason(), "DRAINING");
  }
  const PrefillResult late = worker.Run(worker.Request(RandomPrompt(OwnModel(), 10, 2)));
  EXPECT_EQ(late.status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_TRUE(worker.BecomesIdle());
}

// Calls begin and end at all stages at once; afterwards everything has been given back.
TEST(PrefillEndingsTest, RandomCancelsLeaveNothingBehind) {
  TestWorkerOptions options = Options(48);
  options.memory = WorkerModel().MakeStateLayout(48)->BytesFor(800);
  TestPrefillWorker worker(&WorkerModel(), options);
  FakeDecode decode;
  std::atomic<int> succeeded{0};
  std::vector<std::thread> clients;
  for (int client = 0; client < 4; ++client) {
    clients.emplace_back([&, client] {
      std::mt19937_64 random(client);
      for (int i = 0; i < 15; ++i) {
        const uint64_t id = 100 * client + i + 1;
        const int64_t tokens = 2 + static_cast<int64_t>(random() % 500);
        const auto behaviour = static_cast<Behaviour>(random() % 4);
        decode.Plan(id, {behaviour, grpc::Status(grpc::StatusCode::NOT_FOUND, "gone"), tokens});
        PrefillRequest request;
        request = worker.RequestTo(decode.endpoint(), id, RandomPrompt(OwnModel(), tokens, id));
        request.set_priority(static_cast<int>(random() % 3));
        const auto stream = worker.Start(request);
        switch (random() % 3) {
          case 0:
            stream->Cancel();
            break;
          case 1:
            stream->ReadFirstToken();
            stream->Cancel();
            break;
          default:
            decode.Release(id);
        }
        const PrefillResult result = stream->ReadAll();
        EXPECT_TRUE(result.in_order);
        EXPECT_TRUE(!result.status.ok() || result.done.has_value());
        if (result.status.ok()) ++succeeded;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(worker.BecomesIdle());
  EXPECT_GT(succeeded, 0);
  EXPECT_GE(worker.MetricSum("baton_sequences_finished_total", "reason", "done"), succeeded);
}

}  // namespace
}  // namespace baton
