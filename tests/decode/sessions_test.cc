// What is kept of finished turns, for whom, for how long, and what gives way to what.
#include "decode/sessions.h"

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "common/state/state_codec.h"
#include "decode/session_directory.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/common/state/test_states.h"
#include "tests/decode/decode_worker.h"
#include "tests/temporary_directory.h"

namespace baton {
namespace {

constexpr int64_t kBudget = 1 << 20;

class SessionsTest : public testing::Test {
 protected:
  SessionsTest() {
    options_.ttl = absl::Hours(1);
    options_.memory_bytes = kBudget;
    options_.directory_bytes = kBudget;
  }
  void Start() {
    sessions_ = std::make_unique<Sessions>(options_, TestFingerprint(), &budget_, &metrics_,
                                           [this](int64_t count, int64_t bytes) {
                                             kept_ = count;
                                             reclaimable_ = bytes;
                                           });
  }
  // Another start of a worker, as far as sessions go.
  void Restart() {
    sessions_.reset();
    Start();
  }
  static SessionKey Key(int number, char identity = 'i') {
    SessionKey key;
    key.id = std::string(kSessionIdBytes, static_cast<char>('a' + number));
    key.identity = std::string(kIdentityBytes, identity);
    return key;
  }
  SequenceState State(int64_t position = 9) {
    SequenceState state = MakeState(MixedLayout(), budget_, 40);
    while (state.position() < position) RunTokens(state, 1);
    return state;
  }
  absl::optional<absl::Time> Keep(int number) {
    return sessions_->Keep(Key(number), {2, 3, 4, 5, 6, 7, 8, 9, 10, 11}, State());
  }
  // The state that Read gives.
  absl::StatusOr<std::string> ReadBytes(const SessionKey& key) {
    absl::StatusOr<std::unique_ptr<SessionFrames>> frames = sessions_->Read(key);
    if (!frames.ok()) return frames.status();
    MemoryBudget own(kBudget);
    SequenceState state = MakeState(MixedLayout(), own, 40);
    StateReader reader(TestFingerprint(), &state);
    while (true) {
      std::string bytes;
      const absl::Status next = (*frames)->Next(&bytes);
      if (!next.ok()) return next;
      if (bytes.empty()) break;
      const absl::Status fed = reader.Feed(bytes);
      if (!fed.ok()) return fed;
    }
    if (!reader.committed()) return absl::DataLossError("not committed");
    return VisibleBytes(state);
  }

  TemporaryDirectory directory_;
  MemoryBudget budget_{kBudget};
  Metrics registry_{"decode"};
  SessionMetrics metrics_{&registry_, "tiny"};
  SessionOptions options_;
  int64_t kept_ = 0;
  int64_t reclaimable_ = 0;
  std::unique_ptr<Sessions> sessions_;
};

TEST_F(SessionsTest, AKeptStateIsReadAsItWas) {
  for (const bool directory : {false, true}) {
    options_.directory = directory ? directory_.path() : "";
    options_.memory_bytes = directory ? 0 : kBudget;
    Start();
    const std::string before = VisibleBytes(State());
    ASSERT_TRUE(Keep(0).has_value());
    sessions_->Flush();
    EXPECT_EQ(reclaimable_ == 0, directory);
    EXPECT_EQ(kept_, directory ? 0 : 1);
    const absl::StatusOr<SessionInfo> info = sessions_->Open(Key(0));
    ASSERT_TRUE(info.ok()) << info.status();
    EXPECT_EQ(info->position, 9);
    EXPECT_EQ(info->tokens.size(), 10u);
    for (int i = 0; i < 2; ++i) {
      const absl::StatusOr<std::string> bytes = ReadBytes(Key(0));
      ASSERT_TRUE(bytes.ok()) << bytes.status();
      EXPECT_EQ(*bytes, before);
    }
    sessions_.reset();
    EXPECT_EQ(budget_.used(), 0);
  }
}

TEST_F(SessionsTest, OnlyForWhomItWasKept) {
  options_.directory = directory_.path();
  Start();
  ASSERT_TRUE(Keep(0).has_value());
  for (int i = 0; i < 2; ++i) {
    EXPECT_TRUE(sessions_->Open(Key(0)).ok());
    EXPECT_TRUE(absl::IsNotFound(sessions_->Open(Key(0, 'x')).status()));
    EXPECT_TRUE(absl::IsNotFound(sessions_->Read(Key(0, 'x')).status()));
    EXPECT_TRUE(absl::IsNotFound(sessions_->Open(Key(1)).status()));
    SessionKey odd = Key(0);
    odd.id = "../../../etc/pwd";
    EXPECT_TRUE(absl::IsNotFound(sessions_->Open(odd).status()));
    odd.id = "";
    EXPECT_TRUE(absl::IsNotFound(sessions_->Open(odd).status()));
    // From its file.
    Restart();
  }
}

TEST_F(SessionsTest, AnotherWorkerFindsItInTheDirectory) {
  options_.directory = directory_.path();
  Start();
  ASSERT_TRUE(Keep(0).has_value());
  sessions_->Flush();
  MemoryBudget other_budget(kBudget);
  Sessions other(options_, TestFingerprint(), &other_budget, &metrics_, [](int64_t, int64_t) {});
  EXPECT_TRUE(other.Open(Key(0)).ok());
  EXPECT_TRUE(other.Read(Key(0)).ok());
  Sessions other_model(options_, TestFingerprint(7), &other_budget, &metrics_, [](int64_t, int64_t) {});
  EXPECT_TRUE(absl::IsNotFound(other_model.Open(Key(0)).status()));
}

TEST_F(SessionsTest, TheLeastRecentlyUsedGivesWay) {
  Start();
  ASSERT_TRUE(Keep(0).has_value());
  const int64_t one = reclaimable_;
  EXPECT_GT(one, 0);
  ASSERT_TRUE(Keep(1).has_value());
  ASSERT_TRUE(Keep(2).has_value());
  EXPECT_EQ(budget_.used(), 3 * one);
  EXPECT_TRUE(sessions_->Open(Key(0)).ok());
  EXPECT_TRUE(sessions_->MakeRoom(1));
  EXPECT_EQ(budget_.used(), 2 * one);
  EXPECT_TRUE(sessions_->Open(Key(0)).ok());
  EXPECT_FALSE(sessions_->Open(Key(1)).ok());
  EXPECT_TRUE(sessions_->Open(Key(2)).ok());
  EXPECT_TRUE(sessions_->MakeRoom(kBudget));
  EXPECT_FALSE(sessions_->MakeRoom(1)) << "nothing is left";
  EXPECT_EQ(budget_.used(), 0);

  // Its own limit.
  options_.memory_bytes = 2 * one;
  Restart();
  for (int i = 0; i < 3; ++i) ASSERT_TRUE(Keep(i).has_value());
  EXPECT_FALSE(sessions_->Open(Key(0)).ok());
  EXPECT_TRUE(sessions_->Open(Key(2)).ok());
  options_.memory_bytes = one - 1;
  Restart();
  EXPECT_FALSE(Keep(0).has_value()) << "it would not stay";
}

TEST_F(SessionsTest, WhatIsDroppedFromMemoryIsReadFromItsFile) {
  options_.directory = directory_.path();
  Start();
  ASSERT_TRUE(Keep(0).has_value());
  sessions_->Flush();
  EXPECT_TRUE(sessions_->MakeRoom(kBudget));
  EXPECT_EQ(budget_.used(), 0);
  EXPECT_TRUE(ReadBytes(Key(0)).ok());
  EXPECT_EQ(metrics_.read_from_directory.Value(), 1);
}

TEST_F(SessionsTest, TheyExpire) {
  options_.directory = directory_.path();
  options_.ttl = absl::Milliseconds(50);
  Start();
  ASSERT_TRUE(Keep(0).has_value());
  WaitUntil([&] { return !sessions_->Open(Key(0)).ok(); });
  WaitUntil([&] { return std::filesystem::is_empty(directory_.path()) && budget_.used() == 0; });
  options_.ttl = absl::ZeroDuration();
  Restart();
  EXPECT_FALSE(Keep(1).has_value());
  EXPECT_TRUE(absl::IsNotFound(sessions_->Open(Key(1)).status()));
}

TEST_F(SessionsTest, AFileThatCannotBeWrittenCostsTheFileOnly) {
  options_.directory = directory_.path() + "/gone";
  Start();
  ASSERT_TRUE(Keep(0).has_value());
  sessions_->Flush();
  EXPECT_EQ(metrics_.write_failed.Value(), 1);
  EXPECT_TRUE(ReadBytes(Key(0)).ok()) << "memory still has it";
  // Larger than all the files may be.
  options_.directory = directory_.path();
  options_.directory_bytes = 10;
  Restart();
  ASSERT_TRUE(Keep(0).has_value());
  sessions_->Flush();
  EXPECT_EQ(metrics_.write_failed.Value(), 2);
  EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
}

TEST_F(SessionsTest, TheDirectoryIsKeptWithinItsLimit) {
  options_.directory = directory_.path();
  Start();
  ASSERT_TRUE(Keep(0).has_value());
  sessions_->Flush();
  const DirectoryUse one = TidySessionDirectory(directory_.path(), kBudget, 0, absl::Now());
  EXPECT_EQ(one.files, 1);
  EXPECT_GT(one.bytes, 0);
  for (int i = 1; i < 6; ++i) ASSERT_TRUE(Keep(i).has_value());
  sessions_->Flush();
  directory_.Write("something.else", "left alone");
  const DirectoryUse left = TidySessionDirectory(directory_.path(), 3 * one.bytes, 0, absl::Now());
  EXPECT_EQ(left.files, 3);
  EXPECT_EQ(left.evicted, 3);
  EXPECT_TRUE(std::filesystem::exists(directory_.File("something.else")));
  const DirectoryUse none = TidySessionDirectory(directory_.path(), kBudget, 0, absl::Now() + absl::Hours(2));
  EXPECT_EQ(none.files, 0);
  EXPECT_TRUE(std::filesystem::exists(directory_.File("something.else")));
  EXPECT_EQ(TidySessionDirectory("/nowhere", kBudget, 0, absl::Now()).files, 0);
}

}  // namespace
}  // namespace baton
