#include "common/base/file_watcher.h"

#include <sys/stat.h>

#include <utility>

namespace baton {
namespace {

int64_t Nanoseconds(const timespec& time) { return int64_t{time.tv_sec} * 1000000000 + time.tv_nsec; }

}  // namespace

FileWatcher::FileWatcher(std::vector<std::string> paths) : paths_(std::move(paths)), stamps_(TakeStamps()) {}

std::vector<FileWatcher::Stamp> FileWatcher::TakeStamps() const {
  std::vector<Stamp> stamps;
  for (const std::string& path : paths_) {
    Stamp& stamp = stamps.emplace_back();
    struct stat status;
    if (stat(path.c_str(), &status) != 0) continue;
    stamp = {status.st_dev, status.st_ino, status.st_size, Nanoseconds(status.st_mtim), Nanoseconds(status.st_ctim)};
  }
  return stamps;
}

void FileWatcher::Start(absl::Duration interval, std::function<void()> on_change) {
  thread_ = std::thread([this, interval, on_change = std::move(on_change)] { Loop(interval, on_change); });
}

void FileWatcher::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void FileWatcher::Loop(absl::Duration interval, const std::function<void()>& on_change) {
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      if (mutex_.AwaitWithTimeout(absl::Condition(&stopping_), interval)) return;
    }
    std::vector<Stamp> stamps = TakeStamps();
    if (stamps == stamps_) continue;
    // Before the callback reads: what is written meanwhile is another change.
    stamps_ = std::move(stamps);
    on_change();
  }
}

}  // namespace baton
