#include "common/base/file_watcher.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/file_descriptor.h"
#include "common/base/full_io.h"

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

absl::StatusOr<std::string> ReadSmallFile(const std::string& path, size_t max_bytes) {
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  const auto failed = [&](int error) { return absl::ErrnoToStatus(error, absl::StrCat("cannot read ", path)); };
  if (!file.is_open()) return failed(errno);
  std::string bytes;
  if (const int error = ReadUpTo(file.get(), max_bytes + 1, &bytes); error != 0) return failed(error);
  if (bytes.size() > max_bytes) {
    return absl::ResourceExhaustedError(
        absl::StrCat(path, " is larger than ", max_bytes, " bytes: is it the right file?"));
  }
  return bytes;
}

}  // namespace baton
