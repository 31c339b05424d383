// Files of kept sessions: what is written is read, and nothing else is believed.
#include "decode/session_file.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/state/state_codec.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/common/state/test_states.h"
#include "tests/temporary_directory.h"

namespace baton {
namespace {

using testing::ElementsAre;

class SessionFileTest : public testing::Test {
 protected:
  SessionFileTest() {
    record_.id = std::string("0123456789abcdef");
    record_.identity = std::string(kIdentityBytes, 'i');
    record_.expires = absl::FromUnixMillis(absl::ToUnixMillis(absl::Now() + absl::Hours(1)));
    record_.tokens = {2, 100, 101, 102, 103, 104, 105, 106, 107, 108};
    record_.position = 9;
  }

  SequenceState State() {
    SequenceState state = MakeState(MixedLayout(), budget_, 20);
    for (int i = 0; i < 9; ++i) RunTokens(state, 1);
    return state;
  }
  std::string Path() const { return absl::StrCat(directory_.path(), "/", SessionFileName(record_.id)); }
  std::string Contents() const {
    std::ifstream file(Path(), std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
  }
  void Replace(const std::string& contents) { std::ofstream(Path(), std::ios::binary) << contents; }
  absl::StatusOr<SessionFile> Open() { return SessionFile::Open(directory_.path(), record_.id, TestFingerprint()); }
  // Reads the state that the file holds.
  absl::Status ReadInto(SequenceState& state) {
    absl::StatusOr<SessionFile> file = Open();
    if (!file.ok()) return file.status();
    StateReader reader(TestFingerprint(), &state);
    while (true) {
      std::string frames;
      const absl::Status read = file->ReadFrames(64, &frames);
      if (!read.ok()) return read;
      if (frames.empty()) break;
      const absl::Status fed = reader.Feed(frames);
      if (!fed.ok()) return fed;
    }
    return reader.committed() ? absl::OkStatus() : absl::DataLossError("not committed");
  }

  TemporaryDirectory directory_;
  MemoryBudget budget_{int64_t{1} << 30};
  SessionRecord record_;
};

TEST_F(SessionFileTest, HoldsTheSession) {
  const SequenceState state = State();
  ASSERT_TRUE(WriteSessionFile(directory_.path(), record_, TestFingerprint(), state).ok());
  const absl::StatusOr<SessionFile> file = Open();
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ(file->record().id, record_.id);
  EXPECT_EQ(file->record().identity, record_.identity);
  EXPECT_EQ(file->record().expires, record_.expires);
  EXPECT_EQ(file->record().tokens, record_.tokens);
  EXPECT_EQ(file->record().position, 9);
  SequenceState again = MakeState(MixedLayout(), budget_, 20);
  ASSERT_TRUE(ReadInto(again).ok());
  EXPECT_EQ(VisibleBytes(again), VisibleBytes(state));
}

TEST_F(SessionFileTest, IsItsOwnersAloneAndSaysNeitherIdNorIdentity) {
  ASSERT_TRUE(WriteSessionFile(directory_.path(), record_, TestFingerprint(), State()).ok());
  struct stat info;
  ASSERT_EQ(stat(Path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600u);
  EXPECT_EQ(absl::TimeFromTimespec(info.st_mtim), record_.expires);
  EXPECT_EQ(Contents().find(record_.id), std::string::npos);
  EXPECT_EQ(SessionFileName(record_.id).find("0123456789abcdef"), std::string::npos);
  int files = 0;
  for ([[maybe_unused]] const auto& entry : std::filesystem::directory_iterator(directory_.path())) ++files;
  EXPECT_EQ(files, 1) << "nothing temporary is left";
}

TEST_F(SessionFileTest, EveryTruncationAndEveryChangedByteIsFound) {
  ASSERT_TRUE(WriteSessionFile(directory_.path(), record_, TestFingerprint(), State()).ok());
  const std::string whole = Contents();
  for (size_t length = 0; length < whole.size(); length += length < 200 ? 1 : 37) {
    Replace(whole.substr(0, length));
    SequenceState state = MakeState(MixedLayout(), budget_, 20);
    EXPECT_FALSE(ReadInto(state).ok()) << length;
    EXPECT_EQ(state.position(), 0);
  }
  for (size_t at = 0; at < whole.size(); at += at < 200 ? 1 : 41) {
    std::string changed = whole;
    changed[at] = static_cast<char>(changed[at] ^ 0x40);
    Replace(changed);
    SequenceState state = MakeState(MixedLayout(), budget_, 20);
    EXPECT_FALSE(ReadInto(state).ok()) << at;
  }
  Replace(std::string(100000, 'x'));
  EXPECT_TRUE(absl::IsDataLoss(Open().status()));
}

TEST_F(SessionFileTest, OtherModelsAndOtherIdsFindNothing) {
  ASSERT_TRUE(WriteSessionFile(directory_.path(), record_, TestFingerprint(), State()).ok());
  EXPECT_TRUE(absl::IsNotFound(SessionFile::Open(directory_.path(), record_.id, TestFingerprint(9)).status()));
  EXPECT_TRUE(absl::IsNotFound(SessionFile::Open(directory_.path(), "fedcba9876543210", TestFingerprint()).status()));
  // A file under another's name.
  std::filesystem::rename(Path(), absl::StrCat(directory_.path(), "/", SessionFileName("fedcba9876543210")));
  EXPECT_TRUE(absl::IsNotFound(SessionFile::Open(directory_.path(), "fedcba9876543210", TestFingerprint()).status()));
  EXPECT_TRUE(absl::IsNotFound(Open().status()));
}

TEST_F(SessionFileTest, LinksAndDirectoriesAreNotFollowed) {
  ASSERT_TRUE(WriteSessionFile(directory_.path(), record_, TestFingerprint(), State()).ok());
  const std::string target = directory_.path() + "/elsewhere";
  std::filesystem::rename(Path(), target);
  std::filesystem::create_symlink(target, Path());
  EXPECT_FALSE(Open().ok());
  std::filesystem::remove(Path());
  std::filesystem::create_directory(Path());
  EXPECT_TRUE(absl::IsDataLoss(Open().status()));
}

TEST_F(SessionFileTest, AFullDiskLeavesNoFile) {
  // Writing beyond the limit fails as on a full disk, once its signal is ignored.
  rlimit old;
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &old), 0);
  const auto old_action = std::signal(SIGXFSZ, SIG_IGN);
  rlimit small = old;
  for (const rlim_t limit : {0u, 100u, 300u}) {
    small.rlim_cur = limit;
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &small), 0);
    const absl::Status status = WriteSessionFile(directory_.path(), record_, TestFingerprint(), State());
    ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &old), 0);
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_TRUE(std::filesystem::is_empty(directory_.path()));
  }
  std::signal(SIGXFSZ, old_action);
  EXPECT_TRUE(absl::IsUnavailable(WriteSessionFile("/nowhere/at/all", record_, TestFingerprint(), State())));
}

}  // namespace
}  // namespace baton
