#include "common/base/file_watcher.h"

#include <filesystem>

#include <gtest/gtest.h>

#include "absl/synchronization/mutex.h"
#include "tests/temporary_directory.h"

namespace baton {
namespace {

constexpr absl::Duration kInterval = absl::Milliseconds(2);

// Counts changes and waits for them.
class Changes {
 public:
  void Add() {
    absl::MutexLock lock(&mutex_);
    ++seen_;
  }
  // Waits for one more than the last call saw.
  bool Next() {
    absl::MutexLock lock(&mutex_);
    const int64_t last = last_;
    const auto more = [&] { return seen_ > last; };
    const bool changed = mutex_.AwaitWithTimeout(absl::Condition(&more), absl::Minutes(1));
    last_ = seen_;
    return changed;
  }
  int64_t seen() {
    absl::MutexLock lock(&mutex_);
    return seen_;
  }

 private:
  absl::Mutex mutex_;
  int64_t seen_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t last_ ABSL_GUARDED_BY(mutex_) = 0;
};

TEST(FileWatcher, SeesEveryKindOfChange) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/link";
  directory.Write("one", "1");
  directory.Write("two", "1");
  std::filesystem::create_symlink(directory.path() + "/one", path);
  Changes changes;
  FileWatcher watcher({path});
  watcher.Start(kInterval, [&] { changes.Add(); });
  directory.Write("one", "12");
  EXPECT_TRUE(changes.Next());
  // The link points elsewhere.
  std::filesystem::create_symlink(directory.path() + "/two", path + ".new");
  std::filesystem::rename(path + ".new", path);
  EXPECT_TRUE(changes.Next());
  std::filesystem::remove(path);
  EXPECT_TRUE(changes.Next());
  std::filesystem::create_symlink(directory.path() + "/two", path);
  EXPECT_TRUE(changes.Next());
  watcher.Stop();
}

TEST(FileWatcher, SeesWhatChangedBeforeItWasStarted) {
  const TemporaryDirectory directory;
  const std::string path = directory.path() + "/file";
  Changes changes;
  FileWatcher watcher({path});
  directory.Write("file", "new");
  watcher.Start(kInterval, [&] { changes.Add(); });
  EXPECT_TRUE(changes.Next());
  watcher.Stop();
  EXPECT_EQ(changes.seen(), 1);
}

TEST(FileWatcher, StopsWithoutAChange) {
  FileWatcher watcher({"/nowhere/file"});
  watcher.Start(absl::Hours(1), [] { FAIL(); });
}

}  // namespace
}  // namespace baton
