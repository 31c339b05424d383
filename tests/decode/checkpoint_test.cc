// Copies of running sequences' states, from one decode worker to another: what goes on from one is bit for bit what
// would have been, and no copy outlives its use.
#include <algorithm>
#include <functional>
#include <map>

#include "common/base/ids.h"
#include "common/rpc/status_mapping.h"
#include "common/rpc/worker_request.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/decode/decode_worker.h"

namespace baton {
namespace {

using worker::v1::DecodeRequest;
using worker::v1::SessionKey;
using worker::v1::StateChunk;

constexpr int kPrompt = 50;
constexpr int kNewTokens = 120;

SessionKey NewKey() {
  SessionKey key;
  key.set_id(RandomBytes(kSessionIdBytes));
  key.set_identity(RandomBytes(kIdentityBytes));
  return key;
}

// Whatever could go wrong when a sequence is taken up: randomness, penalties, log probabilities.
DecodeRequest Asked(const std::string& model) {
  DecodeRequest request = MakeRequest(LoopModel(model), RandomPrompt(kPrompt, 5), kNewTokens);
  request.mutable_sampling()->set_temperature(1);
  request.mutable_sampling()->set_seed(77);
  request.mutable_sampling()->set_repetition_penalty(1.3f);
  request.mutable_sampling()->set_frequency_penalty(0.4f);
  request.set_logprobs(true);
  request.set_top_logprobs(2);
  return request;
}

class CheckpointTest : public testing::TestWithParam<const char*> {
 protected:
  static DecodeWorkerOptions Options(int number) {
    DecodeWorkerOptions options;
    options.model = GetParam();
    options.number = number;
    options.checkpoints.memory_bytes = int64_t{1} << 28;
    return options;
  }
  // What an undisturbed request gives, prompt included.
  std::vector<int32_t> AllTokens() const {
    std::vector<int32_t> all(whole_.request.tokens().begin(), whole_.request.tokens().end());
    all.push_back(whole_.first_token);
    all.insert(all.end(), whole_.tokens.begin(), whole_.tokens.end());
    return all;
  }
  // The request with its first `tokens` tokens known.
  DecodeRequest Continued(int64_t tokens) const {
    const std::vector<int32_t> all = AllTokens();
    DecodeRequest request = whole_.request;
    request.mutable_tokens()->Assign(all.begin(), all.begin() + tokens);
    request.set_generated_tokens(static_cast<int32_t>(tokens) - kPrompt);
    return request;
  }
  // The state at this position in the wire format.
  std::vector<std::string> StateAt(int64_t position) const {
    return RunPlainLoop(GetParam(), Continued(position)).messages;
  }
  static absl::Status Push(DecodeWorker& target, const SessionKey& key, int64_t position,
                           const std::vector<std::string>& messages,
                           const std::function<void(StateChunk*, size_t)>& change = nullptr) {
    grpc::ClientContext context;
    auto stream = target.stub().Receive(&context);
    for (size_t i = 0; i < messages.size(); ++i) {
      StateChunk chunk;
      if (i == 0) {
        *chunk.mutable_checkpoint()->mutable_key() = key;
        chunk.mutable_checkpoint()->set_position(position);
      }
      chunk.set_data(messages[i]);
      if (change != nullptr) change(&chunk, i);
      if (!stream->Write(chunk)) break;
    }
    stream->WritesDone();
    worker::v1::ReceiveResponse answer;
    while (stream->Read(&answer)) {
    }
    const absl::Status status = FromGrpcStatus(stream->Finish());
    if (status.ok()) {
      EXPECT_EQ(answer.position(), position);
    }
    return status;
  }
  static absl::Status Drop(DecodeWorker& target, const SessionKey& key) {
    grpc::ClientContext context;
    worker::v1::DropCheckpointRequest request;
    worker::v1::DropCheckpointResponse response;
    *request.mutable_key() = key;
    return FromGrpcStatus(target.stub().DropCheckpoint(&context, request, &response));
  }
  // Goes on at the target when `tokens` tokens are known, from what it has by this key.
  RunStream::Result GoOn(DecodeWorker& target, const SessionKey& key, int64_t tokens) {
    DecodeRequest request = Continued(tokens);
    request.set_compute_prompt(true);
    *request.mutable_session() = key;
    RunStream run(target.stub(), request);
    return run.End();
  }
  void ExpectTheRest(const RunStream::Result& result, int64_t tokens) {
    ASSERT_TRUE(result.status.ok()) << result.status;
    const std::vector<int32_t> all = AllTokens();
    ASSERT_TRUE(result.first.has_value());
    EXPECT_EQ(result.first->id(), all[static_cast<size_t>(tokens)]);
    EXPECT_EQ(result.tokens, std::vector<int32_t>(all.begin() + tokens + 1, all.end())) << tokens;
    const auto& expected = whole_.logprobs;
    ASSERT_LE(result.logprobs.size(), expected.size());
    const size_t skipped = expected.size() - result.logprobs.size();
    for (size_t i = 0; i < result.logprobs.size(); ++i) {
      EXPECT_EQ(result.logprobs[i].SerializeAsString(), expected[skipped + i].SerializeAsString());
    }
  }

  const Expectation whole_ = RunPlainLoop(GetParam(), Asked(GetParam()));
};

// The tiny models' windows see 64 keys, RecurrentGemma's one more; pages hold 64 positions.
TEST_P(CheckpointTest, GoesOnBitForBitFromAnyPosition) {
  DecodeWorker target(Options(0));
  for (const int64_t position : {51, 60, 62, 63, 64, 65, 66, 67, 100, 127, 128, 129, 130, 150, 165}) {
    const std::vector<std::string> state = StateAt(position);
    for (const int64_t since : {1, 3}) {
      const SessionKey key = NewKey();
      ASSERT_TRUE(Push(target, key, position, state).ok());
      const RunStream::Result result = GoOn(target, key, position + since);
      ExpectTheRest(result, position + since);
      EXPECT_EQ(result.first->cached_tokens(), position) << "only what came since is computed";
      EXPECT_EQ(GoOn(target, key, position + since).status.code(), absl::StatusCode::kUnavailable) << "once";
    }
  }
  ExpectNothingHeld(target);
  EXPECT_EQ(target.Metric("baton_checkpoints"), 0);
  EXPECT_EQ(target.Metric("baton_checkpoint_events_total", "received"), 30);
  EXPECT_EQ(target.Metric("baton_checkpoint_events_total", "resumed"), 30);
}

TEST_P(CheckpointTest, ARunningWorkerSendsThemAndEndsThem) {
  DecodeWorker target(Options(0));
  DecodeWorkerOptions options = Options(1);
  options.checkpoints.tokens = 10;
  options.engine.step_delay = absl::Milliseconds(2);
  DecodeWorker source(options);
  for (const bool cancel : {false, true}) {
    DecodeRequest request = whole_.request;
    request.add_standbys(target.server().address());
    RunStream run(source.stub(), request);
    const auto reservation = run.Reserve();
    ASSERT_TRUE(reservation.has_value());
    ASSERT_TRUE(HandOver(source.stub(), *reservation, whole_.messages).ok());
    int64_t told = kPrompt + 1;
    int64_t last_position = 0;
    int announced = 0;
    while (const auto event = run.Next()) {
      for (const auto& chunk : event->progress().tokens()) told += chunk.ids_size();
      for (const auto& checkpoint : event->progress().checkpoints()) {
        ++announced;
        EXPECT_EQ(checkpoint.standby(), 0);
        EXPECT_GT(checkpoint.position(), last_position);
        last_position = checkpoint.position();
        // The state has consumed nothing that has not been told, so whoever reads this can go on from there.
        ASSERT_LT(last_position, told);
        // As if this worker had been lost now. It runs on, and another copy takes the place of the one that is taken;
        // if that was there first, it may be ahead of what has been told here.
        if (announced % 2 == 0) continue;
        const RunStream::Result result = GoOn(target, checkpoint.key(), told);
        if (ErrorReason(result.status) != "LOCAL_PREFILL_REFUSED") ExpectTheRest(result, told);
      }
      if (cancel && announced >= 3) break;
    }
    EXPECT_GE(announced, 3);
    if (cancel) run.Cancel();
    run.End();
    ExpectNothingHeld(source);
    WaitUntil([&] { return target.Metric("baton_checkpoints") == 0; });
    ExpectNothingHeld(target);
  }
  EXPECT_EQ(source.Metric("baton_checkpoints_sent_total", "failed"), 0);
  EXPECT_GT(source.Metric("baton_checkpoint_sent_bytes_total"), 0);
}

TEST_P(CheckpointTest, AStandbyThatFailsIsLeftForTheNext) {
  DecodeWorker target(Options(0));
  DecodeWorkerOptions options = Options(1);
  options.checkpoints.tokens = 10;
  options.engine.step_delay = absl::Milliseconds(2);
  options.checkpoints.memory_bytes = 0;
  DecodeWorker source(options);
  DecodeRequest request = whole_.request;
  // Nobody is there; another keeps none.
  request.add_standbys("127.0.0.1:1");
  request.add_standbys(source.server().address());
  request.add_standbys(target.server().address());
  RunStream run(source.stub(), request);
  ASSERT_TRUE(HandOver(source.stub(), *run.Reserve(), whole_.messages).ok());
  EXPECT_EQ(run.End().tokens, whole_.tokens);
  EXPECT_GE(source.Metric("baton_checkpoints_sent_total", "failed"), 1);
  ExpectNothingHeld(source);
  WaitUntil([&] { return target.Metric("baton_checkpoints") == 0 && source.Metric("baton_checkpoints") == 0; });
  ExpectNothingHeld(target);
}

TEST_P(CheckpointTest, WithoutMemoryForACopyTheSequenceGoesOn) {
  DecodeWorker target(Options(0));
  DecodeWorkerOptions options = Options(1);
  options.checkpoints.tokens = 10;
  const int64_t bytes =
      WorkerModel(GetParam(), 1).MakeStateLayout(DecodeRunTokens(options.engine))->BytesFor(kPrompt + kNewTokens);
  options.memory = bytes;
  DecodeWorker source(options);
  DecodeRequest request = whole_.request;
  request.add_standbys(target.server().address());
  RunStream run(source.stub(), request);
  ASSERT_TRUE(HandOver(source.stub(), *run.Reserve(), whole_.messages).ok());
  EXPECT_EQ(run.End().tokens, whole_.tokens);
  EXPECT_GE(source.Metric("baton_checkpoints_sent_total", "skipped"), 1);
  ExpectNothingHeld(source);
  ExpectNothingHeld(target);
}

TEST_P(CheckpointTest, TheOldestGiveWay) {
  // Of as many pages.
  const std::vector<std::string> early = StateAt(70);
  const std::vector<std::string> late = StateAt(75);
  DecodeWorkerOptions options = Options(0);
  const std::shared_ptr<const StateLayout> layout =
      WorkerModel(GetParam(), 0).MakeStateLayout(DecodeRunTokens(options.engine));
  options.checkpoints.memory_bytes = 2 * layout->BytesFor(76);
  options.memory = 3 * layout->BytesFor(kPrompt + kNewTokens);
  DecodeWorker target(options);
  const SessionKey first = NewKey();
  const SessionKey second = NewKey();
  const SessionKey third = NewKey();
  ASSERT_TRUE(Push(target, first, 70, early).ok());
  ASSERT_TRUE(Push(target, second, 70, early).ok());
  ASSERT_TRUE(Push(target, third, 75, late).ok());
  EXPECT_LE(target.budget().used(), options.checkpoints.memory_bytes);
  EXPECT_EQ(target.Metric("baton_checkpoint_events_total", "evicted"), 1);
  EXPECT_EQ(GoOn(target, first, 77).status.code(), absl::StatusCode::kUnavailable);
  ExpectTheRest(GoOn(target, second, 77), 77);
  // What runs comes before what may be of use.
  ASSERT_TRUE(Push(target, second, 70, early).ok());
  std::vector<std::unique_ptr<RunStream>> runs;
  for (int i = 0; i < 3; ++i) {
    runs.push_back(std::make_unique<RunStream>(target.stub(), whole_.request));
    EXPECT_TRUE(runs.back()->Reserve().has_value());
  }
  EXPECT_EQ(target.Metric("baton_checkpoints"), 0);
  EXPECT_EQ(Push(target, first, 70, early).code(), absl::StatusCode::kResourceExhausted);
  runs.clear();
  ExpectNothingHeld(target);
}

TEST_P(CheckpointTest, TheyExpire) {
  DecodeWorkerOptions options = Options(0);
  options.checkpoints.ttl = absl::Milliseconds(100);
  DecodeWorker target(options);
  ASSERT_TRUE(Push(target, NewKey(), 60, StateAt(60)).ok());
  ASSERT_TRUE(Push(target, NewKey(), 60, StateAt(60)).ok());
  ExpectNothingHeld(target);
  EXPECT_EQ(target.Metric("baton_checkpoint_events_total", "expired"), 2);
  EXPECT_EQ(target.Metric("baton_checkpoints"), 0);
}

TEST_P(CheckpointTest, LateDuplicateAndHostilePushes) {
  using Code = absl::StatusCode;
  DecodeWorker target(Options(0));
  const std::vector<std::string> early = StateAt(60);
  const std::vector<std::string> late = StateAt(70);
  const SessionKey key = NewKey();
  ASSERT_TRUE(Push(target, key, 70, late).ok());
  const int64_t used = target.budget().used();
  EXPECT_EQ(Push(target, key, 60, early).code(), Code::kAlreadyExists) << "late";
  EXPECT_EQ(Push(target, key, 70, late).code(), Code::kAlreadyExists) << "again";
  SessionKey other = key;
  other.set_identity(std::string(kIdentityBytes, 'x'));
  const std::vector<std::string> later = StateAt(80);
  EXPECT_EQ(Push(target, other, 80, later).code(), Code::kNotFound) << "another's";
  EXPECT_TRUE(Drop(target, other).ok());

  SessionKey bad = key;
  bad.set_id("short");
  EXPECT_EQ(Push(target, bad, 80, later).code(), Code::kInvalidArgument);
  EXPECT_EQ(Drop(target, bad).code(), Code::kInvalidArgument);
  for (const int64_t position : {int64_t{0}, int64_t{-1}, int64_t{2048}, int64_t{1} << 62}) {
    EXPECT_EQ(Push(target, NewKey(), position, later).code(), Code::kInvalidArgument) << position;
  }
  EXPECT_EQ(Push(target, key, 81, later).code(), Code::kInvalidArgument) << "not where it was said to be";
  EXPECT_EQ(Push(target, key, 79, later).code(), Code::kInvalidArgument) << "more than there is room for";
  EXPECT_EQ(Push(target, key, 80, {later.begin(), later.end() - 1}).code(), Code::kCancelled) << "cut short";
  std::vector<std::string> flipped = later;
  flipped[flipped.size() / 2].back() ^= 1;
  EXPECT_EQ(Push(target, key, 80, flipped).code(), Code::kDataLoss);
  std::vector<std::string> another_models = later;
  another_models[0][8 + 16] ^= 1;
  EXPECT_FALSE(Push(target, key, 80, another_models).ok());
  EXPECT_EQ(Push(target, key, 80, later,
                 [&](StateChunk* chunk, size_t i) {
                   if (i == 1) chunk->set_reservation_id(1);
                 })
                .code(),
            Code::kInvalidArgument);
  EXPECT_EQ(Push(target, key, 80, later,
                 [&](StateChunk* chunk, size_t i) {
                   if (i == 1) *chunk->mutable_checkpoint()->mutable_key() = key;
                 })
                .code(),
            Code::kInvalidArgument);
  EXPECT_EQ(Push(target, key, 80, later,
                 [&](StateChunk* chunk, size_t i) {
                   if (i == 1) {
                     WaitUntil([&] { return target.budget().used() > used; });  // it has begun
                     EXPECT_TRUE(Drop(target, key).ok());
                   }
                 })
                .code(),
            Code::kNotFound)
      << "its sequence has ended";
  ExpectNothingHeld(target);
  EXPECT_GT(used, 0);

  // What failed left the copy before it as it was.
  ASSERT_TRUE(Push(target, key, 70, late).ok());
  EXPECT_EQ(target.budget().used(), used);
  EXPECT_FALSE(Push(target, key, 80, flipped).ok());
  ExpectTheRest(GoOn(target, key, 75), 75);
  // A copy that is ahead of what the gateway has is of no use to it.
  ASSERT_TRUE(Push(target, key, 80, later).ok());
  EXPECT_EQ(ErrorReason(GoOn(target, key, 80).status), "LOCAL_PREFILL_REFUSED");
  ExpectNothingHeld(target);

  DecodeWorkerOptions none = Options(1);
  none.checkpoints.memory_bytes = 0;
  DecodeWorker keeps_none(none);
  EXPECT_EQ(Push(keeps_none, key, 80, later).code(), Code::kFailedPrecondition);
  EXPECT_TRUE(Drop(keeps_none, key).ok());
}

INSTANTIATE_TEST_SUITE_P(Models, CheckpointTest, testing::Values("tiny-gemma2", "tiny-recurrentgemma"),
                         [](const auto& info) { return std::string(info.param).substr(5); });

}  // namespace
}  // namespace baton
