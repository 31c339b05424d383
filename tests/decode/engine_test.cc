// The engine by itself, with calls whose readers never read.
#include "decode/engine.h"

#include <grpcpp/grpcpp.h>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/decode/decode_worker.h"

namespace baton {
namespace {

using worker::v1::DecodeEvent;

constexpr char kModel[] = "tiny-recurrentgemma";

class EngineTest : public testing::Test {
 protected:
  // A call that nobody reads: its first event stays in flight for ever.
  std::shared_ptr<DecodeCall> MakeCall(int max_new_tokens) {
    SequenceRequest request;
    request.tokens = RandomPrompt(10, 1);
    request.sampling.temperature = 0;
    request.max_new_tokens = max_new_tokens;
    auto call = std::make_shared<DecodeCall>(std::move(request), &metrics_);
    writers_.push_back(new EventWriter<DecodeEvent>(8, nullptr));
    call->AttachEvents(writers_.back()->handle());
    return call;
  }

  // A state that consumed the prompt, whatever it holds.
  SequenceState MakeState(const DecodeCall& call) {
    SequenceState state =
        SequenceState::Create(model_.MakeStateLayout(1), budget_, call.request().total_tokens()).value();
    std::vector<float> logits(static_cast<size_t>(model_.config().vocab_size));
    for (const int32_t token : call.request().tokens) {
      const SequenceRun run = {&state, {&token, 1}, 0};
      model_.Forward({&run, 1}, absl::MakeSpan(logits));
    }
    return state;
  }

  static void Add(DecodeEngine& engine, std::shared_ptr<DecodeCall> call, SequenceState state) {
    std::vector<SampleStart> samples;
    samples.push_back({0, std::move(state), 400});
    engine.Add(std::move(call), std::move(samples));
  }

  ~EngineTest() override {
    // What gRPC does when a call is over; deletes them.
    for (auto* writer : writers_) writer->OnDone();
  }

  Model& model_ = WorkerModel(kModel);
  MemoryBudget budget_{int64_t{1} << 30};
  Metrics registry_{"decode"};
  DecodeMetrics metrics_{&registry_, kModel, &budget_};
  LoadReporter load_{&budget_};
  std::vector<EventWriter<DecodeEvent>*> writers_;
};

TEST_F(EngineTest, ASlowReaderLosesItsSequenceAndNobodyElses) {
  DecodeEngineOptions options;
  options.max_unread_tokens = 16;
  DecodeEngine engine(&model_, options, &budget_, &metrics_, &load_);
  std::shared_ptr<DecodeCall> slow = MakeCall(1000);
  // Short enough for all of it to be queued.
  std::shared_ptr<DecodeCall> brief = MakeCall(12);
  Add(engine, slow, MakeState(*slow));
  Add(engine, brief, MakeState(*brief));
  engine.Start();
  WaitUntil([&] { return slow->over() && brief->over(); });
  engine.Stop();
  EXPECT_EQ(metrics_.finished_failed.Value(), 1);
  EXPECT_EQ(metrics_.finished_done.Value(), 1);
  // Two events of one token each were queued, then 16 waited.
  EXPECT_EQ(metrics_.generation_tokens.Value(), 18 + 11);
  EXPECT_EQ(budget_.used(), 0);
}

TEST_F(EngineTest, StopEndsWhatIsLeft) {
  DecodeEngine engine(&model_, DecodeEngineOptions(), &budget_, &metrics_, &load_);
  engine.Start();
  std::shared_ptr<DecodeCall> call = MakeCall(100);
  Add(engine, call, MakeState(*call));
  engine.Stop();
  EXPECT_TRUE(call->over());
  EXPECT_EQ(budget_.used(), 0);
  EXPECT_EQ(load_.Snapshot().running(), 0);
}

TEST_F(EngineTest, ACallThatIsOverBeforeItsStateArrivesIsNotDecoded) {
  DecodeEngine engine(&model_, DecodeEngineOptions(), &budget_, &metrics_, &load_);
  std::shared_ptr<DecodeCall> call = MakeCall(100);
  SequenceState state = MakeState(*call);
  EXPECT_TRUE(call->Finish(DecodeOutcome::kCancelled, absl::CancelledError("")));
  EXPECT_FALSE(call->Finish(DecodeOutcome::kFailed, absl::InternalError("")));
  Add(engine, call, std::move(state));
  engine.Start();
  WaitUntil([&] { return budget_.used() == 0; });
  EXPECT_EQ(metrics_.generation_tokens.Value(), 0);
  EXPECT_EQ(metrics_.finished_cancelled.Value(), 1);
  EXPECT_EQ(metrics_.finished_failed.Value(), 0);
}

TEST_F(EngineTest, BatchesAreNeverLargerThanAllowed) {
  DecodeEngineOptions options;
  options.max_batch = 3;
  DecodeEngine engine(&model_, options, &budget_, &metrics_, &load_);
  std::vector<std::shared_ptr<DecodeCall>> calls;
  for (int i = 0; i < 7; ++i) {
    calls.push_back(MakeCall(10));
    Add(engine, calls.back(), MakeState(*calls.back()));
  }
  engine.Start();
  for (const auto& call : calls) {
    WaitUntil([&] { return call->over(); });
  }
  engine.Stop();
  const prometheus::ClientMetric::Histogram sizes = metrics_.step_sequences.Collect().histogram;
  EXPECT_EQ(sizes.sample_sum, 7 * 9);
  // Bounds 1, 2, 4: nothing above 4, and a sum of 63 in 21 steps leaves 3 for each.
  EXPECT_EQ(sizes.sample_count, 21u);
}

}  // namespace
}  // namespace baton
