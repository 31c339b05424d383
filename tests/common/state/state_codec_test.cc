#include "common/state/state_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <utility>
#include <vector>

#include "tests/common/state/state_frames.h"
#include "tests/common/state/test_states.h"

namespace baton {
namespace {

constexpr int64_t kPlenty = 1 << 30;

FirstTokenRecord PlainToken() {
  FirstTokenRecord token;
  token.id = 42;
  return token;
}

FirstTokenRecord TokenWithLogprobs() {
  FirstTokenRecord token;
  token.id = 7;
  token.has_logprobs = true;
  token.is_greedy = true;
  token.logprob = -0.25f;
  token.top_ids = {7, 255999, 0};
  token.top_logprobs = {-0.25f, -3.5f, -8.0f};
  return token;
}

struct RoundTripCase {
  std::string name;
  std::vector<LayerStateSpec> layers;
};

class StateCodecRoundTripTest : public ::testing::TestWithParam<RoundTripCase> {};

// Prefill in several chunkings, into a receiver whose pages, run length and reservation differ from the sender's.
TEST_P(StateCodecRoundTripTest, BitwiseAtEveryLengthAndChunking) {
  for (ElementType element : {ElementType::kF32, ElementType::kBF16}) {
    for (int64_t tokens = 1; tokens <= 26; ++tokens) {
      for (int chunk : {1, 3, 8, 26}) {
        MemoryBudget budget(kPlenty);
        auto sender_layout = MakeLayout(GetParam().layers, element, /*page_tokens=*/8, chunk);
        auto receiver_layout = MakeLayout(GetParam().layers, element, /*page_tokens=*/5, /*max_run_tokens=*/1);
        SequenceState sender = MakeState(sender_layout, budget, tokens);
        const std::string stream = WriteStream(sender, tokens, chunk, PlainToken());

        SequenceState receiver = MakeState(receiver_layout, budget, tokens + 3);
        StateReader reader(TestFingerprint(), &receiver);
        ASSERT_TRUE(reader.Feed(stream).ok()) << reader.Feed("") << " tokens " << tokens << " chunk " << chunk;
        ASSERT_TRUE(reader.committed());
        EXPECT_EQ(reader.commit().position, tokens);
        EXPECT_EQ(reader.bytes_received(), static_cast<int64_t>(stream.size()));
        EXPECT_EQ(VisibleBytes(receiver), VisibleBytes(sender)) << "tokens " << tokens << " chunk " << chunk;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Kinds, StateCodecRoundTripTest,
    ::testing::Values(
        RoundTripCase{"Global", {GlobalLayer(2, 4)}}, RoundTripCase{"Window", {WindowLayer(2, 4, 8)}},
        RoundTripCase{"WindowOfOne", {WindowLayer(1, 4, 1)}}, RoundTripCase{"Recurrent", {RecurrentLayer(6, 3)}},
        RoundTripCase{"NoConv", {RecurrentLayer(6, 0)}},
        RoundTripCase{"Gemma2", {WindowLayer(2, 4, 8), GlobalLayer(2, 4), WindowLayer(2, 4, 8), GlobalLayer(2, 4)}},
        RoundTripCase{"RecurrentGemma", {RecurrentLayer(6, 3), RecurrentLayer(6, 3), WindowLayer(1, 4, 9)}}),
    [](const auto& info) { return info.param.name; });

TEST(StateCodecTest, FirstTokenTravels) {
  for (const FirstTokenRecord& sent : {PlainToken(), TokenWithLogprobs()}) {
    MemoryBudget budget(kPlenty);
    SequenceState sender = MakeState(MixedLayout(), budget, 9);
    SequenceState receiver = MakeState(MixedLayout(), budget, 10);
    StateReader reader(TestFingerprint(), &receiver);
    ASSERT_TRUE(reader.Feed(WriteStream(sender, 9, 1, sent)).ok());
    const FirstTokenRecord& got = reader.commit().first_token;
    EXPECT_EQ(got.id, sent.id);
    EXPECT_EQ(got.has_logprobs, sent.has_logprobs);
    EXPECT_EQ(got.is_greedy, sent.is_greedy);
    EXPECT_EQ(got.logprob, sent.logprob);
    EXPECT_EQ(got.top_ids, sent.top_ids);
    EXPECT_EQ(got.top_logprobs, sent.top_logprobs);
  }
}

TEST(StateCodecTest, BothSidesContinueAlike) {
  MemoryBudget budget(kPlenty);
  SequenceState sender = MakeState(MixedLayout(ElementType::kBF16, 8, /*max_run_tokens=*/4), budget, 40);
  SequenceState receiver = MakeState(MixedLayout(), budget, 40);
  StateReader reader(TestFingerprint(), &receiver);
  ASSERT_TRUE(reader.Feed(WriteStream(sender, 19, 4, PlainToken())).ok());
  for (int i = 0; i < 20; ++i) {
    RunTokens(sender, 1);
    RunTokens(receiver, 1);
    ASSERT_EQ(VisibleBytes(receiver), VisibleBytes(sender)) << i;
  }
}

TEST(StateCodecTest, OnlyWhatDecodeNeedsTravels) {
  MemoryBudget budget(kPlenty);
  auto layout = MakeLayout({WindowLayer(1, 64, 5)});
  int64_t bytes_of_short = 0;
  for (int64_t tokens : {5, 1000}) {
    SequenceState sender = MakeState(layout, budget, tokens);
    const std::string stream = WriteStream(sender, tokens, 1, PlainToken());
    if (bytes_of_short == 0) bytes_of_short = stream.size();
    EXPECT_EQ(static_cast<int64_t>(stream.size()), bytes_of_short);
  }
}

TEST(StateCodecTest, PiecesMayBeSkippedAndCallsRepeated) {
  MemoryBudget budget(kPlenty);
  auto layout = MixedLayout();
  SequenceState sender = MakeState(layout, budget, 20);
  StateWriter writer(TestFingerprint(), *layout, 20);
  std::string stream;
  writer.AppendHeader(&stream);
  const size_t header = stream.size();
  writer.AppendPieces(sender, &stream);
  EXPECT_EQ(stream.size(), header) << "nothing has been computed yet";
  for (int i = 0; i < 20; ++i) {
    RunTokens(sender, 1);
    if (i == 6 || i == 19) writer.AppendPieces(sender, &stream);
  }
  const size_t complete = stream.size();
  writer.AppendPieces(sender, &stream);
  EXPECT_EQ(stream.size(), complete) << "all of it has been sent";
  writer.AppendCommit(PlainToken(), &stream);
  SequenceState receiver = MakeState(layout, budget, 21);
  StateReader reader(TestFingerprint(), &receiver);
  ASSERT_TRUE(reader.Feed(stream).ok());
  EXPECT_EQ(VisibleBytes(receiver), VisibleBytes(sender));
}

TEST(StateCodecTest, PartsOfAnySizeMakeTheSameState) {
  MemoryBudget budget(kPlenty);
  auto layout = MixedLayout();
  constexpr int64_t kTokens = 150;
  SequenceState reference = MakeState(layout, budget, kTokens);
  for (int i = 0; i < kTokens; ++i) RunTokens(reference, 1);
  for (size_t max_bytes : {size_t{1}, size_t{700}, size_t{5000}, size_t{1} << 20}) {
    SequenceState sender = MakeState(layout, budget, kTokens);
    StateWriter writer(TestFingerprint(), *layout, kTokens);
    SequenceState receiver = MakeState(layout, budget, kTokens + 1);
    StateReader reader(TestFingerprint(), &receiver);
    std::string header;
    writer.AppendHeader(&header);
    ASSERT_TRUE(reader.Feed(header).ok());
    bool all = true;
    while (sender.position() < kTokens || !all) {
      // The state advances while a part is still to come.
      if (sender.position() < kTokens) RunTokens(sender, 1);
      std::string part;
      all = writer.AppendPieces(sender, max_bytes, &part);
      EXPECT_TRUE(all || !part.empty());
      EXPECT_TRUE(part.size() <= max_bytes || WholeStateFrames(part, max_bytes) == part.size()) << part.size();
      ASSERT_TRUE(reader.Feed(part).ok());
    }
    std::string commit;
    writer.AppendCommit(PlainToken(), &commit);
    ASSERT_TRUE(reader.Feed(commit).ok());
    EXPECT_TRUE(reader.committed());
    EXPECT_EQ(VisibleBytes(receiver), VisibleBytes(reference)) << max_bytes;
  }
}

TEST(StateCodecTest, FramesAreBoundedAndCutCleanly) {
  MemoryBudget budget(kPlenty);
  // 64 KiB for each position: four would just not fit one frame with its overhead.
  auto layout = MakeLayout({GlobalLayer(64, 256), RecurrentLayer(512, 3)}, ElementType::kBF16, 64, 64);
  SequenceState sender = MakeState(layout, budget, 10);
  const std::string stream = WriteStream(sender, 10, 10, PlainToken());
  for (const StateFrame& frame : SplitFrames(stream)) EXPECT_LE(frame.bytes.size(), kStateFrameTargetBytes);

  for (size_t limit : {size_t{1}, kStateFrameTargetBytes, size_t{1} << 20, size_t{1} << 30}) {
    SequenceState receiver = MakeState(layout, budget, 11);
    StateReader reader(TestFingerprint(), &receiver);
    absl::string_view rest = stream;
    while (!rest.empty()) {
      const size_t cut = WholeStateFrames(rest, limit);
      ASSERT_GT(cut, 0u);
      ASSERT_TRUE(cut <= limit || SplitFrames(rest.substr(0, cut)).size() == 1);
      ASSERT_TRUE(reader.Feed(rest.substr(0, cut)).ok());
      rest.remove_prefix(cut);
    }
    EXPECT_TRUE(reader.committed());
    EXPECT_EQ(VisibleBytes(receiver), VisibleBytes(sender));
  }
  EXPECT_EQ(WholeStateFrames("", 100), 0u);
}

TEST(StateCodecTest, APositionWiderThanAFrameStillTravels) {
  MemoryBudget budget(kPlenty);
  auto layout = MakeLayout({GlobalLayer(1, 80'000)}, ElementType::kF32);
  SequenceState sender = MakeState(layout, budget, 2);
  const std::string stream = WriteStream(sender, 2, 1, PlainToken());
  SequenceState receiver = MakeState(layout, budget, 3);
  StateReader reader(TestFingerprint(), &receiver);
  ASSERT_TRUE(reader.Feed(stream).ok());
  EXPECT_EQ(VisibleBytes(receiver), VisibleBytes(sender));
}

TEST(StateCodecTest, PositionIsSetOnlyByTheCommit) {
  MemoryBudget budget(kPlenty);
  SequenceState sender = MakeState(MixedLayout(), budget, 9);
  const std::string stream = WriteStream(sender, 9, 1, PlainToken());
  SequenceState receiver = MakeState(MixedLayout(), budget, 10);
  StateReader reader(TestFingerprint(), &receiver);
  const std::vector<StateFrame> frames = SplitFrames(stream);
  for (size_t i = 0; i < frames.size(); ++i) {
    EXPECT_EQ(receiver.position(), 0);
    EXPECT_FALSE(reader.committed());
    ASSERT_TRUE(reader.Feed(frames[i].bytes).ok());
  }
  EXPECT_EQ(receiver.position(), 9);
  EXPECT_TRUE(reader.committed());
}

TEST(StateCodecTest, ReceivingAllocatesNothingBeyondTheReservation) {
  auto layout = MixedLayout();
  MemoryBudget budget(kPlenty);
  SequenceState sender = MakeState(layout, budget, 9);
  const std::string stream = WriteStream(sender, 9, 1, PlainToken());
  MemoryBudget exact(layout->BytesFor(10));
  SequenceState receiver = MakeState(layout, exact, 10);
  StateReader reader(TestFingerprint(), &receiver);
  ASSERT_TRUE(reader.Feed(stream).ok());
  EXPECT_EQ(exact.used(), layout->BytesFor(10));
}

using StateCodecDeathTest = ::testing::Test;

TEST(StateCodecDeathTest, MisuseOfTheWriterIsCaught) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  MemoryBudget budget(kPlenty);
  auto layout = MixedLayout();
  SequenceState state = MakeState(layout, budget, 4);
  StateWriter writer(TestFingerprint(), *layout, 2);
  std::string out;
  EXPECT_DEATH(writer.AppendPieces(state, &out), "check failed");  // no header
  writer.AppendHeader(&out);
  EXPECT_DEATH(writer.AppendCommit(PlainToken(), &out), "check failed");  // incomplete
  for (int i = 0; i < 3; ++i) RunTokens(state, 1);
  EXPECT_DEATH(writer.AppendPieces(state, &out), "check failed");        // beyond the final position
  EXPECT_DEATH(StateReader(TestFingerprint(), &state), "check failed");  // not fresh
}

}  // namespace
}  // namespace baton
