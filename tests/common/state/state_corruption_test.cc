// What a reader must refuse: damaged streams, and well-formed ones that mean ill.
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <utility>
#include <vector>

#include "common/state/state_codec.h"
#include "tests/common/state/state_frames.h"
#include "tests/common/state/test_states.h"

namespace baton {
namespace {

constexpr int64_t kPlenty = 1 << 30;
constexpr int64_t kTokens = 9;

// A small stream of all three kinds of layer: header; layers 0 and 1 in pieces; layer 2; commit.
class StateCorruptionTest : public ::testing::Test {
 protected:
  StateCorruptionTest() : budget_(kPlenty), layout_(MixedLayout()) {
    SequenceState sender =
        MakeState(MixedLayout(ElementType::kBF16, /*page_tokens=*/8, /*max_run_tokens=*/4), budget_, kTokens);
    FirstTokenRecord token;
    token.id = 3;
    token.has_logprobs = true;
    token.logprob = -1;
    token.top_ids = {3, 4};
    token.top_logprobs = {-1, -2};
    stream_ = WriteStream(sender, kTokens, 4, token);
    frames_ = SplitFrames(stream_);
  }

  // Feeds the whole stream to a fresh state; the state must not have moved unless all is well.
  absl::Status Read(absl::string_view stream, int64_t max_tokens = 20) {
    SequenceState receiver = MakeState(layout_, budget_, max_tokens);
    StateReader reader(TestFingerprint(), &receiver);
    const absl::Status status = reader.Feed(stream);
    EXPECT_EQ(receiver.position(), reader.committed() ? kTokens : 0);
    EXPECT_FALSE(!status.ok() && reader.committed()) << status;
    EXPECT_EQ(reader.Feed(""), status) << "the first status is final";
    if (!status.ok()) {
      EXPECT_EQ(reader.Feed(stream_), status) << "nothing is read after an error";
    }
    if (status.ok() && !reader.committed()) return absl::CancelledError("not committed");
    return status;
  }

  size_t Index(int type, int nth = 0) const {
    for (size_t i = 0; i < frames_.size(); ++i) {
      if (frames_[i].type == type && nth-- == 0) return i;
    }
    BATON_CHECK(false);
  }

  // The stream with one frame's payload changed, and every checksum right.
  std::string With(size_t frame, const std::function<void(std::string*)>& change) const {
    std::vector<StateFrame> frames = frames_;
    change(&frames[frame].payload);
    frames[frame] = SealFrame(frames[frame].type, frames[frame].payload);
    return JoinFrames(frames, /*fix_commit=*/frames[frame].type != kCommitFrame);
  }
  template <typename T>
  std::string WithValue(size_t frame, size_t offset, T value) const {
    return With(frame, [&](std::string* payload) { WriteAt(value, offset, payload); });
  }

  MemoryBudget budget_;
  std::shared_ptr<StateLayout> layout_;
  std::string stream_;
  std::vector<StateFrame> frames_;
};

TEST_F(StateCorruptionTest, TheStreamItselfIsFine) {
  EXPECT_TRUE(Read(stream_).ok()) << Read(stream_);
  EXPECT_TRUE(Read(JoinFrames(frames_)).ok());
  EXPECT_TRUE(Read(stream_, kTokens + 1).ok());
}

TEST_F(StateCorruptionTest, EveryFlippedBitIsNoticed) {
  for (size_t byte = 0; byte < stream_.size(); ++byte) {
    for (int bit = 0; bit < 8; ++bit) {
      std::string damaged = stream_;
      damaged[byte] = static_cast<char>(damaged[byte] ^ (1 << bit));
      const absl::Status status = Read(damaged);
      ASSERT_TRUE(absl::IsDataLoss(status) || absl::IsInvalidArgument(status) || absl::IsFailedPrecondition(status))
          << "byte " << byte << " bit " << bit << ": " << status;
    }
  }
}

TEST_F(StateCorruptionTest, EveryTruncationIsNoticed) {
  std::vector<size_t> frame_ends = {0};
  for (const StateFrame& frame : frames_) frame_ends.push_back(frame_ends.back() + frame.bytes.size());
  for (size_t length = 0; length < stream_.size(); ++length) {
    const absl::Status status = Read(absl::string_view(stream_).substr(0, length));
    const bool whole = std::find(frame_ends.begin(), frame_ends.end(), length) != frame_ends.end();
    ASSERT_TRUE(whole ? absl::IsCancelled(status) : absl::IsInvalidArgument(status)) << length << ": " << status;
  }
}

TEST_F(StateCorruptionTest, GarbageIsRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(Read("x")));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(std::string(16, '\0'))));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(std::string(1000, '\xFF'))));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(stream_.substr(1))));
}

TEST_F(StateCorruptionTest, DroppedDuplicatedOrSwappedFramesAreRefused) {
  for (bool fix_commit : {false, true}) {
    for (size_t i = 0; i < frames_.size(); ++i) {
      std::vector<StateFrame> without = frames_;
      without.erase(without.begin() + i);
      EXPECT_FALSE(Read(JoinFrames(without, fix_commit)).ok()) << "without frame " << i;

      std::vector<StateFrame> twice = frames_;
      twice.insert(twice.begin() + i, frames_[i]);
      EXPECT_TRUE(absl::IsInvalidArgument(Read(JoinFrames(twice, fix_commit)))) << "frame " << i << " twice";
    }
  }
  for (size_t i = 0; i < frames_.size(); ++i) {
    for (size_t j = i + 1; j < frames_.size(); ++j) {
      std::vector<StateFrame> swapped = frames_;
      std::swap(swapped[i], swapped[j]);
      EXPECT_FALSE(Read(JoinFrames(swapped, /*fix_commit=*/false)).ok()) << i << " and " << j << " swapped";
    }
  }
}

TEST_F(StateCorruptionTest, LayersMayInterleaveInAnyOrder) {
  // Recurrent first, then layer 1, then layer 0: legal when the commit agrees.
  std::vector<StateFrame> reordered = frames_;
  std::stable_sort(reordered.begin() + 1, reordered.end() - 1, [](const StateFrame& a, const StateFrame& b) {
    return ReadAt<uint32_t>(a.payload, 0) > ReadAt<uint32_t>(b.payload, 0);
  });
  EXPECT_TRUE(Read(JoinFrames(reordered)).ok()) << Read(JoinFrames(reordered));
  EXPECT_TRUE(absl::IsDataLoss(Read(JoinFrames(reordered, /*fix_commit=*/false))));
}

TEST_F(StateCorruptionTest, ASectionOfAnotherStreamIsRefused) {
  // Same layer, position and size, right checksum, other contents: only the chain tells.
  SequenceState other = MakeState(layout_, budget_, kTokens);
  StateWriter writer(TestFingerprint(), *layout_, kTokens);
  std::string stream;
  writer.AppendHeader(&stream);
  while (other.position() < kTokens) {
    RunTokens(other, 1, /*seed=*/5);
    if (other.position() == 4 || other.position() == 8 || other.position() == kTokens) {
      writer.AppendPieces(other, &stream);
    }
  }
  const std::vector<StateFrame> foreign = SplitFrames(stream);
  for (size_t i = 1; i + 1 < frames_.size(); ++i) {
    std::vector<StateFrame> mixed = frames_;
    ASSERT_EQ(mixed[i].bytes.size(), foreign[i].bytes.size());
    mixed[i] = foreign[i];
    EXPECT_TRUE(absl::IsDataLoss(Read(JoinFrames(mixed, /*fix_commit=*/false)))) << i;
  }
}

TEST_F(StateCorruptionTest, VersionAndFingerprintAreRefusedByName) {
  const absl::Status version = Read(WithValue<uint32_t>(0, 8, 3));
  EXPECT_TRUE(absl::IsFailedPrecondition(version));
  EXPECT_NE(version.message().find("version 3"), absl::string_view::npos) << version;

  const absl::Status fingerprint = Read(WithValue<uint8_t>(0, 16, 0xAB));
  EXPECT_TRUE(absl::IsFailedPrecondition(fingerprint));
  EXPECT_NE(fingerprint.message().find("ab020304"), absl::string_view::npos) << fingerprint;
  EXPECT_NE(fingerprint.message().find("01020304"), absl::string_view::npos) << fingerprint;
}

TEST_F(StateCorruptionTest, AnotherVersionIsNamedWhateverItsChecksumIs) {
  std::string stream = stream_;
  WriteAt<uint32_t>(9, 8 + 8, &stream);
  EXPECT_TRUE(absl::IsFailedPrecondition(Read(stream)));
}

TEST_F(StateCorruptionTest, UnknownFeaturesAreRefused) {
  const auto with = [&](uint32_t version, uint32_t features) {
    return Read(With(0, [&](std::string* payload) {
      WriteAt(version, 8, payload);
      WriteAt(features, 12, payload);
    }));
  };
  EXPECT_TRUE(with(2, 0).ok()) << "features may be absent";
  EXPECT_TRUE(absl::IsFailedPrecondition(with(2, 4)));
  EXPECT_TRUE(absl::IsFailedPrecondition(with(2, 5)));
  EXPECT_TRUE(absl::IsInvalidArgument(with(2, 2))) << "a commit without its list";
  EXPECT_TRUE(absl::IsInvalidArgument(with(1, 1))) << "version 1 has none";
  EXPECT_TRUE(absl::IsInvalidArgument(with(2, 1))) << "sections of another size";
}

TEST_F(StateCorruptionTest, OtherLayoutsAreRefused) {
  EXPECT_TRUE(absl::IsFailedPrecondition(Read(WithValue<uint32_t>(0, 56, 2))));           // layers
  EXPECT_TRUE(absl::IsFailedPrecondition(Read(WithValue<uint32_t>(0, 56, 0xFFFFFFFF))));  // layers
  EXPECT_TRUE(absl::IsFailedPrecondition(Read(WithValue<uint32_t>(0, 60, 0))));           // element type
  for (size_t layer = 0; layer < 3; ++layer) {
    for (size_t offset = 0; offset < 32; offset += 4) {
      const size_t at = 64 + 32 * layer + offset;
      const auto value = ReadAt<uint32_t>(frames_[0].payload, at);
      EXPECT_TRUE(absl::IsFailedPrecondition(Read(WithValue<uint32_t>(0, at, value + 1)))) << layer << " " << offset;
    }
  }
}

TEST_F(StateCorruptionTest, HeadersOfWrongSizeAreRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(Read(With(0, [](std::string* p) { p->push_back(0); }))));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(With(0, [](std::string* p) { p->pop_back(); }))));
  for (size_t size : {0, 7, 8, 11, 12, 63}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Read(With(0, [&](std::string* p) { p->resize(size); })))) << size;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint32_t>(0, 12, 1))));  // reserved
}

TEST_F(StateCorruptionTest, PositionsBeyondTheReservationAreRefused) {
  EXPECT_TRUE(absl::IsInvalidArgument(Read(stream_, /*max_tokens=*/kTokens)));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(stream_, /*max_tokens=*/1)));
  for (uint64_t position : {uint64_t{0}, uint64_t{20}, uint64_t{1} << 40, uint64_t{1} << 63, ~uint64_t{0}}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint64_t>(0, 48, position)))) << position;
  }
}

TEST_F(StateCorruptionTest, KvSectionsAreHeldToTheLayout) {
  for (int nth : {0, 1, 2, 3}) {
    const size_t frame = Index(kKvFrame, nth);
    for (uint32_t layer : {2u, 3u, 0x80000000u, 0xFFFFFFFFu}) {
      EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint32_t>(frame, 0, layer)))) << layer;
    }
    for (uint32_t count : {0u, 100u, 0x7FFFFFFFu, 0x80000000u, 0xFFFFFFFFu}) {
      EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint32_t>(frame, 4, count)))) << count;
    }
    const auto first = ReadAt<uint64_t>(frames_[frame].payload, 8);
    for (uint64_t position : {first + 1, first - 1, uint64_t{1} << 63, ~uint64_t{0}}) {
      EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint64_t>(frame, 8, position)))) << position;
    }
    EXPECT_TRUE(absl::IsInvalidArgument(Read(With(frame, [](std::string* p) { p->pop_back(); }))));
    EXPECT_TRUE(absl::IsInvalidArgument(Read(With(frame, [](std::string* p) { p->push_back(0); }))));
    EXPECT_TRUE(absl::IsInvalidArgument(Read(With(frame, [](std::string* p) { p->resize(15); }))));
    EXPECT_TRUE(absl::IsInvalidArgument(Read(With(frame, [](std::string* p) { p->clear(); }))));
  }
}

TEST_F(StateCorruptionTest, RecurrentSectionsAreHeldToTheLayout) {
  const size_t frame = Index(kRecurrentFrame);
  for (uint32_t layer : {0u, 1u, 3u, 0xFFFFFFFFu}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint32_t>(frame, 0, layer)))) << layer;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint32_t>(frame, 4, 1))));            // reserved
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint64_t>(frame, 8, kTokens - 1))));  // another position
  EXPECT_TRUE(absl::IsInvalidArgument(Read(With(frame, [](std::string* p) { p->pop_back(); }))));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(With(frame, [](std::string* p) { p->push_back(0); }))));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(With(frame, [](std::string* p) { p->clear(); }))));
}

TEST_F(StateCorruptionTest, CommitsAreHeldToWhatCame) {
  const size_t commit = Index(kCommitFrame);
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint64_t>(commit, 0, kTokens - 1))));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint64_t>(commit, 0, kTokens + 1))));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint64_t>(commit, 8, 0))));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint64_t>(commit, 8, ~uint64_t{0}))));
  EXPECT_TRUE(absl::IsDataLoss(Read(WithValue<uint64_t>(commit, 16, 12345))));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<int32_t>(commit, 24, -1))));   // token id
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint8_t>(commit, 28, 2))));    // not a flag
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint8_t>(commit, 28, 0))));    // log probabilities of nothing
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint8_t>(commit, 29, 255))));  // not a flag
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint16_t>(commit, 30, 0))));   // fewer than the size says
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint16_t>(commit, 30, 0xFFFF))));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<int32_t>(commit, 36, -7))));  // top id
  EXPECT_TRUE(absl::IsInvalidArgument(Read(With(commit, [](std::string* p) { p->pop_back(); }))));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(With(commit, [](std::string* p) { p->resize(35); }))));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(With(commit, [](std::string* p) {
    WriteAt<uint16_t>(257, 30, p);
    p->resize(36 + 8 * 257);
  }))));
}

TEST_F(StateCorruptionTest, ListsOfFirstTokensAreChecked) {
  SequenceState sender = MakeState(MixedLayout(), budget_, kTokens);
  std::vector<FirstTokenRecord> tokens(2);
  tokens[1].id = 7;
  tokens[1].ends = true;
  tokens[1].has_logprobs = true;
  tokens[1].top_ids = {3, 4};
  tokens[1].top_logprobs = {-1, -2};
  const std::vector<StateFrame> frames = SplitFrames(WriteStream(sender, kTokens, 1, tokens));
  const auto with = [&](const std::function<void(std::string*)>& change) {
    std::vector<StateFrame> changed = frames;
    change(&changed.back().payload);
    changed.back() = SealFrame(kCommitFrame, changed.back().payload);
    SequenceState receiver = MakeState(layout_, budget_, 20);
    StateReader reader(TestFingerprint(), &receiver);
    const absl::Status status = reader.Feed(JoinFrames(changed));
    EXPECT_EQ(receiver.position(), reader.committed() ? kTokens : 0);
    return status;
  };
  const auto with_value = [&](size_t offset, auto value) {
    return with([&](std::string* payload) { WriteAt(value, offset, payload); });
  };
  EXPECT_TRUE(with([](std::string*) {}).ok());
  for (const uint32_t samples : {0u, 1u, 3u, 129u, 0xFFFFFFFFu}) {
    EXPECT_TRUE(absl::IsInvalidArgument(with_value(24, samples))) << samples;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(with_value(28, uint32_t{1})));  // reserved
  // The second of two records, which are 12 bytes and, here, 16 more.
  EXPECT_TRUE(absl::IsInvalidArgument(with_value(44, int32_t{-1})));
  EXPECT_TRUE(absl::IsInvalidArgument(with_value(48, uint8_t{7})));  // an unknown flag
  EXPECT_TRUE(absl::IsInvalidArgument(with_value(48, uint8_t{2})));  // log probabilities of nothing
  EXPECT_TRUE(absl::IsInvalidArgument(with_value(49, uint8_t{2})));  // not a flag
  EXPECT_TRUE(absl::IsInvalidArgument(with_value(50, uint16_t{1})));
  EXPECT_TRUE(absl::IsInvalidArgument(with_value(50, uint16_t{3})));
  EXPECT_TRUE(absl::IsInvalidArgument(with_value(50, uint16_t{0xFFFF})));
  EXPECT_TRUE(absl::IsInvalidArgument(with_value(56, int32_t{-7})));  // a listed id
  for (const size_t size : {0, 23, 24, 31, 32, 43, 44, 55, 71}) {
    EXPECT_TRUE(absl::IsInvalidArgument(with([&](std::string* payload) { payload->resize(size); }))) << size;
  }
  EXPECT_TRUE(absl::IsInvalidArgument(with([](std::string* payload) { payload->push_back(0); })));
  // In the plain commit, which has no list, no token ends anything.
  EXPECT_TRUE(absl::IsInvalidArgument(Read(WithValue<uint8_t>(Index(kCommitFrame), 28, 3))));
}

TEST_F(StateCorruptionTest, FrameHeadersAreChecked) {
  std::vector<StateFrame> unknown = frames_;
  unknown.insert(unknown.begin() + 1, SealFrame(9, "what is this"));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(JoinFrames(unknown))));

  std::string reserved = stream_.substr(0, frames_[0].bytes.size() - 8);
  reserved[2] = 1;
  const uint64_t checksum = XXH3_64bits(reserved.data(), reserved.size());
  reserved.append(reinterpret_cast<const char*>(&checksum), sizeof(checksum));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(reserved)));

  for (uint32_t length : {0xFFFFFFFFu, 0xFFFFFFF0u, 0x80000000u}) {
    std::string stream = stream_;
    WriteAt(length, 4, &stream);
    EXPECT_TRUE(absl::IsInvalidArgument(Read(stream))) << length;
  }
}

TEST_F(StateCorruptionTest, NothingMayFollowTheCommit) {
  EXPECT_TRUE(absl::IsInvalidArgument(Read(stream_ + frames_[1].bytes)));
  EXPECT_TRUE(absl::IsInvalidArgument(Read(stream_ + "x")));

  // In a chunk of its own it comes too late to undo the commit, and must not touch the state.
  SequenceState receiver = MakeState(layout_, budget_, 20);
  StateReader reader(TestFingerprint(), &receiver);
  ASSERT_TRUE(reader.Feed(stream_).ok());
  const std::string before = VisibleBytes(receiver);
  EXPECT_TRUE(absl::IsInvalidArgument(reader.Feed(frames_[1].bytes)));
  EXPECT_EQ(VisibleBytes(receiver), before);
}

}  // namespace
}  // namespace baton
