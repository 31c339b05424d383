// A decode worker that is told to leave: sequences stop between two tokens, say where their states are, and each state
// can be fetched once.
#include <algorithm>
#include <optional>

#include "common/rpc/status_mapping.h"
#include "common/rpc/worker_request.h"
#include "common/state/state_codec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/decode/decode_worker.h"

namespace baton {
namespace {

using worker::v1::DecodeEvent;

constexpr int kPrompt = 40;
constexpr int kNewTokens = 400;

class LeaveTest : public testing::TestWithParam<const char*> {
 protected:
  static DecodeWorkerOptions Options() {
    DecodeWorkerOptions options;
    options.model = GetParam();
    options.engine.step_delay = absl::Milliseconds(2);
    return options;
  }

  // A request that is under way; its tokens so far, the first one not among them.
  std::unique_ptr<RunStream> Begin() {
    auto run = std::make_unique<RunStream>(worker_.stub(), expected_.request);
    const auto reservation = run->Reserve();
    EXPECT_TRUE(reservation.has_value());
    EXPECT_TRUE(HandOver(worker_.stub(), *reservation, expected_.messages).ok());
    return run;
  }
  // Reads to the end. What was left, and how the call ended.
  std::optional<worker::v1::Leaving> ReadToTheEnd(RunStream& run) {
    std::optional<worker::v1::Leaving> leaving;
    while (const auto event = run.Next()) {
      EXPECT_FALSE(leaving.has_value()) << "nothing follows";
      if (event->has_leaving()) leaving = event->leaving();
      for (const auto& chunk : event->progress().tokens()) {
        EXPECT_EQ(chunk.position(), kPrompt + 1 + static_cast<int64_t>(tokens_.size()));
        tokens_.insert(tokens_.end(), chunk.ids().begin(), chunk.ids().end());
      }
    }
    status_ = run.End().status;
    return leaving;
  }
  // The state by this key, in a state of its own.
  absl::StatusOr<SequenceState> Fetch(const worker::v1::SessionKey& key) {
    Model& model = LoopModel(GetParam());
    absl::StatusOr<SequenceState> state =
        SequenceState::Create(model.MakeStateLayout(16), budget_, kPrompt + kNewTokens);
    EXPECT_TRUE(state.ok());
    StateReader reader(model.fingerprint(), &*state);
    grpc::ClientContext context;
    worker::v1::ReadSessionRequest request;
    *request.mutable_key() = key;
    request.set_fingerprint(model.fingerprint().ToBytes());
    auto stream = worker_.stub().ReadSession(&context, request);
    worker::v1::StateChunk chunk;
    while (stream->Read(&chunk)) EXPECT_TRUE(reader.Feed(chunk.data()).ok());
    const absl::Status status = FromGrpcStatus(stream->Finish());
    if (!status.ok()) return status;
    EXPECT_TRUE(reader.committed());
    return state;
  }

  const Expectation expected_ =
      RunPlainLoop(GetParam(), MakeRequest(LoopModel(GetParam()), RandomPrompt(kPrompt, 3), kNewTokens));
  MemoryBudget budget_{int64_t{1} << 30};
  DecodeWorker worker_{Options()};
  std::vector<int32_t> tokens_;
  absl::Status status_;
};

TEST_P(LeaveTest, TheStateIsThatOfAllTokensButTheLast) {
  const auto run = Begin();
  for (int i = 0; i < 3; ++i) {
    const auto event = run->Next();
    ASSERT_TRUE(event.has_value());
    for (const auto& chunk : event->progress().tokens()) {
      tokens_.insert(tokens_.end(), chunk.ids().begin(), chunk.ids().end());
    }
  }
  worker_.service().Leave();
  const auto leaving = ReadToTheEnd(*run);
  EXPECT_TRUE(absl::IsUnavailable(status_)) << status_;
  EXPECT_EQ(ErrorReason(status_), "DRAINING");
  ASSERT_TRUE(leaving.has_value());
  ASSERT_EQ(leaving->samples_size(), 1);
  EXPECT_EQ(leaving->samples(0).sample(), 0);
  const worker::v1::SessionKey key = leaving->samples(0).key();
  EXPECT_EQ(key.id().size(), kSessionIdBytes);
  EXPECT_EQ(worker_.Metric("baton_sequences_finished_total", "left"), 1);

  worker::v1::SessionKey wrong = key;
  wrong.set_identity(std::string(kIdentityBytes, 'x'));
  EXPECT_TRUE(absl::IsNotFound(Fetch(wrong).status()));

  absl::StatusOr<SequenceState> state = Fetch(key);
  ASSERT_TRUE(state.ok()) << state.status();
  // The first token came from elsewhere, and the last one has not been consumed.
  ASSERT_EQ(state->position(), kPrompt + static_cast<int64_t>(tokens_.size()));
  // It goes on as it would have.
  Model& model = LoopModel(GetParam());
  int32_t next = tokens_.back();
  std::vector<float> logits(static_cast<size_t>(model.config().vocab_size));
  for (int i = 0; i < 20; ++i) {
    SequenceRun step;
    step.state = &*state;
    step.tokens = absl::MakeConstSpan(&next, 1);
    step.logits_from = 0;
    model.Forward({&step, 1}, absl::MakeSpan(logits));
    next = static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
    tokens_.push_back(next);
  }
  const std::vector<int32_t> first(expected_.tokens.begin(),
                                   expected_.tokens.begin() + static_cast<int64_t>(tokens_.size()));
  EXPECT_EQ(tokens_, first);

  EXPECT_TRUE(absl::IsNotFound(Fetch(key).status())) << "once";
  EXPECT_TRUE(worker_.service().AwaitLeft(absl::Seconds(60)));
  ExpectNothingHeld(worker_);
}

TEST_P(LeaveTest, WhatComesLaterLeavesAtOnceAndNobodyHasToFetchIt) {
  worker_.service().Leave();
  const auto run = Begin();
  const auto leaving = ReadToTheEnd(*run);
  ASSERT_TRUE(leaving.has_value());
  EXPECT_TRUE(tokens_.empty());
  EXPECT_EQ(leaving->samples_size(), 1);
  EXPECT_GT(worker_.budget().used(), 0);
  EXPECT_FALSE(worker_.service().AwaitLeft(absl::Milliseconds(1)));
  ExpectNothingHeld(worker_);
}

INSTANTIATE_TEST_SUITE_P(Models, LeaveTest, testing::Values("tiny-gemma2", "tiny-recurrentgemma"),
                         [](const auto& info) { return std::string(info.param).substr(5); });

}  // namespace
}  // namespace baton
