// Notices that files have changed, however they are replaced: written in place, renamed over, or behind a link that now
// points elsewhere (as Kubernetes swaps its secrets). Looks at them once an interval instead of watching, which sees
// through links and network file systems.
//
//   FileWatcher watcher({"keys.txt"});       // what counts as unchanged is what is there now,
//   Load("keys.txt");                        // so a change while this reads is not missed
//   watcher.Start(absl::Seconds(1), [] { Load("keys.txt"); });
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace baton {

class FileWatcher {
 public:
  explicit FileWatcher(std::vector<std::string> paths);
  ~FileWatcher() { Stop(); }
  FileWatcher(const FileWatcher&) = delete;

  // Calls `on_change` on a thread of its own after any of the files has changed, appeared or gone; once for changes
  // that are seen together.
  void Start(absl::Duration interval, std::function<void()> on_change);
  // Waits for a running callback; not to be called from one.
  void Stop();

 private:
  // What differs between one content of a file and the next; all zeros: there is no such file.
  struct Stamp {
    uint64_t device = 0;
    uint64_t inode = 0;
    int64_t bytes = 0;
    int64_t modified_ns = 0;
    int64_t changed_ns = 0;
    bool operator==(const Stamp& other) const = default;
  };

  std::vector<Stamp> TakeStamps() const;
  void Loop(absl::Duration interval, const std::function<void()>& on_change);

  const std::vector<std::string> paths_;
  // The thread's, once it runs.
  std::vector<Stamp> stamps_;
  absl::Mutex mutex_;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread thread_;
};

}  // namespace baton
