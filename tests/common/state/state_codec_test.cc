#include "common/state/state_codec.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "common/compute/bf16.h"
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

void ExpectEqual(const FirstTokenRecord& got, const FirstTokenRecord& sent) {
  EXPECT_EQ(got.id, sent.id);
  EXPECT_EQ(got.ends, sent.ends);
  EXPECT_EQ(got.has_logprobs, sent.has_logprobs);
  EXPECT_EQ(got.is_greedy, sent.is_greedy);
  EXPECT_EQ(got.logprob, sent.logprob);
  EXPECT_EQ(got.top_ids, sent.top_ids);
  EXPECT_EQ(got.top_logprobs, sent.top_logprobs);
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
    ASSERT_EQ(reader.commit().first_tokens.size(), 1u);
    ExpectEqual(reader.commit().first_tokens[0], sent);
  }
}

TEST(StateCodecTest, FirstTokensOfAllSamplesTravel) {
  for (const size_t samples : {size_t{2}, size_t{3}, kMaxSamples}) {
    std::vector<FirstTokenRecord> sent;
    for (size_t i = 0; i < samples; ++i) {
      sent.push_back(i % 2 == 0 ? PlainToken() : TokenWithLogprobs());
      sent.back().id = static_cast<int32_t>(i);
      sent.back().ends = i % 3 == 1;
    }
    MemoryBudget budget(kPlenty);
    SequenceState sender = MakeState(MixedLayout(), budget, 9);
    SequenceState receiver = MakeState(MixedLayout(), budget, 10);
    StateReader reader(TestFingerprint(), &receiver);
    ASSERT_TRUE(reader.Feed(WriteStream(sender, 9, 1, sent)).ok());
    ASSERT_EQ(reader.commit().first_tokens.size(), samples);
    for (size_t i = 0; i < samples; ++i) ExpectEqual(reader.commit().first_tokens[i], sent[i]);
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

// The network cuts a message anywhere, also within numbers.
TEST(StateCodecTest, SlicesMayCutFramesAnywhere) {
  MemoryBudget budget(kPlenty);
  SequenceState sender = MakeState(MixedLayout(ElementType::kBF16, 8, 4), budget, 19);
  const std::string stream = WriteStream(sender, 19, 4, TokenWithLogprobs());
  for (size_t size : {size_t{1}, size_t{2}, size_t{7}, size_t{64}, size_t{1000}}) {
    std::vector<absl::string_view> slices = {""};
    for (size_t at = 0; at < stream.size(); at += size) slices.push_back(absl::string_view(stream).substr(at, size));
    slices.push_back("");
    SequenceState receiver = MakeState(MixedLayout(), budget, 20);
    StateReader reader(TestFingerprint(), &receiver);
    ASSERT_TRUE(reader.Feed(slices).ok()) << size;
    ASSERT_TRUE(reader.committed());
    EXPECT_EQ(VisibleBytes(receiver), VisibleBytes(sender)) << size;
  }
}

// Layers leave one after the other while the state has not advanced yet, in any order among themselves.
TEST(StateCodecTest, LayersLeaveOneByOne) {
  MemoryBudget budget(kPlenty);
  constexpr int64_t kTokens = 45;
  constexpr int64_t kChunk = 10;
  auto layout = MakeLayout({GlobalLayer(2, 4), WindowLayer(1, 6, 21), RecurrentLayer(10, 3), WindowLayer(1, 2, 1)},
                           ElementType::kBF16, /*page_tokens=*/8, kChunk);
  SequenceState sender = MakeState(layout, budget, kTokens);
  const std::shared_ptr<const void> owner(&sender, [](const void*) {});
  StateCutter cutter(*layout, kTokens);
  StateFrameWriter frames(TestFingerprint(), *layout, kTokens);
  SequenceState receiver = MakeState(layout, budget, kTokens + 1);
  StateReader reader(TestFingerprint(), &receiver);
  const auto feed = [&](const ByteChain& bytes) {
    std::string flat;
    bytes.AppendTo(&flat);
    EXPECT_EQ(flat.size(), bytes.size());
    ASSERT_TRUE(reader.Feed(flat).ok()) << reader.Feed("");
  };
  ByteChain header;
  frames.WriteHeader(&header);
  feed(header);
  std::vector<StatePiece> pieces;
  while (sender.position() < kTokens) {
    EXPECT_FALSE(cutter.complete());
    const int64_t before = sender.position();
    const int64_t tokens = std::min(kChunk, kTokens - before);
    RunTokens(sender, tokens);
    sender.SetPosition(before);  // as within a forward pass
    const bool last = before + tokens == kTokens;
    for (int layer = 0; layer < 4; ++layer) {
      pieces.clear();
      cutter.LayerDone(sender, layer, before + tokens, &pieces);
      for (const StatePiece& piece : pieces) {
        EXPECT_EQ(piece.layer, layer);
        EXPECT_TRUE(last || (piece.first + piece.count) % 8 == 0) << "pages that are being filled wait";
        EXPECT_TRUE(layer != 1 || piece.first >= kTokens - 20) << "what leaves the window is not sent";
        EXPECT_NE(layer, 3) << "a window of one key needs none";
        EXPECT_TRUE(piece.bytes.size() == 1 || layer != 0 || piece.count < 8) << "a page is one range";
        ByteChain bytes;
        frames.WritePiece(piece, owner, &bytes);
        feed(bytes);
      }
      EXPECT_EQ(pieces.empty(), layer == 3 || (layer == 2 && !last) || (layer == 1 && before + tokens < 32));
    }
    sender.SetPosition(before + tokens);
  }
  EXPECT_TRUE(cutter.complete());
  ByteChain commit;
  const FirstTokenRecord plain = PlainToken();
  frames.WriteCommit({&plain, 1}, &commit);
  feed(commit);
  ASSERT_TRUE(reader.committed());
  EXPECT_EQ(VisibleBytes(receiver), VisibleBytes(sender));
}

// Of every row the receiver gets the nearest that 8 bits and a scale can say; recurrent state is exact.
TEST(StateCodecTest, Int8RoundsRowsAndNothingElse) {
  for (ElementType element : {ElementType::kF32, ElementType::kBF16}) {
    MemoryBudget budget(kPlenty);
    auto layout = MixedLayout(element);
    SequenceState sender = MakeState(layout, budget, 19);
    for (int i = 0; i < 19; ++i) RunTokens(sender, 1);
    StateWriter writer(TestFingerprint(), *layout, 19, KvEncoding::kInt8);
    std::string stream;
    writer.AppendHeader(&stream);
    writer.AppendPieces(sender, &stream);
    writer.AppendCommit(PlainToken(), &stream);
    SequenceState receiver = MakeState(layout, budget, 20);
    StateReader reader(TestFingerprint(), &receiver);
    ASSERT_TRUE(reader.Feed(stream).ok()) << reader.Feed("");
    ASSERT_TRUE(reader.committed());
    EXPECT_EQ(VisibleBytes(sender) == VisibleBytes(receiver), false);
    EXPECT_TRUE(std::equal(sender.RgLruState(2).begin(), sender.RgLruState(2).end(), receiver.RgLruState(2).begin()));
    EXPECT_TRUE(std::equal(sender.ConvState(2).begin(), sender.ConvState(2).end(), receiver.ConvState(2).begin()));

    const auto value = [&](const std::byte* at, int64_t i) {
      if (element == ElementType::kF32) return reinterpret_cast<const float*>(at)[i];
      return Bf16ToFloat(reinterpret_cast<const uint16_t*>(at)[i]);
    };
    for (int layer : {0, 1}) {
      const LayerStateSpec& spec = layout->layers[layer];
      for (int head = 0; head < spec.kv_heads; ++head) {
        for (int64_t position = sender.FirstNeededPosition(layer, 19); position < 19; ++position) {
          for (bool keys : {true, false}) {
            const std::byte* sent =
                keys ? sender.MutableKeyRow(layer, head, position) : sender.MutableValueRow(layer, head, position);
            const std::byte* got =
                keys ? receiver.MutableKeyRow(layer, head, position) : receiver.MutableValueRow(layer, head, position);
            float largest = 0;
            for (int i = 0; i < spec.head_dim; ++i) largest = std::max(largest, std::abs(value(sent, i)));
            for (int i = 0; i < spec.head_dim; ++i) {
              // Half a step, and the rounding of scale and result to bfloat16.
              EXPECT_NEAR(value(got, i), value(sent, i), largest * (0.5 / 127 + 1.0 / 128)) << layer << " " << position;
            }
          }
        }
      }
    }
  }
}

// Int8 takes 1 byte per element and 2 per (token, kv head, K or V).
TEST(StateCodecTest, Int8Bytes) {
  MemoryBudget budget(kPlenty);
  auto layout = MakeLayout({GlobalLayer(4, 256)}, ElementType::kBF16, /*page_tokens=*/64, 512);
  SequenceState sender = MakeState(layout, budget, 512);
  RunTokens(sender, 512);
  for (KvEncoding encoding : {KvEncoding::kExact, KvEncoding::kInt8}) {
    StateWriter writer(TestFingerprint(), *layout, 512, encoding);
    std::string stream;
    writer.AppendHeader(&stream);
    writer.AppendPieces(sender, &stream);
    size_t rows = 0;
    for (const StateFrame& frame : SplitFrames(stream)) rows += frame.type == kKvFrame ? frame.payload.size() - 16 : 0;
    EXPECT_EQ(rows, encoding == KvEncoding::kExact ? 512u * 4096 : 512u * (2 * 4 * (256 + 2)));
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
