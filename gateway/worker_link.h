// The control connection to one worker: learns who it is (GetInfo), gets its tokenizer unless another worker had the
// same, then follows its load (WatchLoad), whose silence or end means that the worker is gone. Tries again for ever,
// with growing pauses, so a restarted worker (a new boot id) is used again by itself.
//
// Owns one thread. Publishes a snapshot after every change; `publish` runs on the link's or gRPC's threads, one call at
// a time, and never after Stop() has returned.
#pragma once

#include <chrono>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/rpc/stoppable_calls.h"
#include "gateway/fleet.h"
#include "gateway/timers.h"
#include "gateway/tokenizer_cache.h"
#include "gateway/worker_call.h"

namespace baton {

// Of tokens that are on their way: a decode worker packs several of a stream into one message when its messages are not
// read, and should notice within a few hundred tokens.
inline constexpr int kWorkerCallWindowBytes = 4096;

struct WorkerLinkOptions {
  // How the worker is connected to.
  ChannelOptions channel = {.call_window_bytes = kWorkerCallWindowBytes};
  // Pauses between attempts: doubled from the first to the largest.
  Clock::duration first_pause = std::chrono::milliseconds(100);
  Clock::duration largest_pause = std::chrono::seconds(1);
  // A worker reports its load at least once a second.
  Clock::duration longest_silence = std::chrono::seconds(5);
  std::chrono::seconds info_timeout{5};
  std::chrono::seconds tokenizer_timeout{30};
};

// What a worker says of itself, before anything is built on it.
absl::Status CheckWorkerInfo(const worker::v1::WorkerInfo& info, Stage stage);

class WorkerLink {
 public:
  using Publish = std::function<void(const WorkerSnapshot&)>;

  // `tokenizers` must outlive it. Starts at once.
  WorkerLink(std::string endpoint, Stage stage, TokenizerCache* tokenizers, Publish publish,
             const WorkerLinkOptions& options = {});
  ~WorkerLink();
  WorkerLink(const WorkerLink&) = delete;

  // Tells the thread to end, without waiting for it.
  void BeginStop();
  void Stop();

 private:
  using LoadCall = WorkerCall<worker::v1::WatchLoadRequest, worker::v1::Load>;

  // The load stream as the link's thread sees it. Shared with the callbacks, which may outlive the attempt.
  struct Watch {
    std::mutex mutex;
    std::condition_variable changed;
    bool ended = false;
    absl::Status status;
    Clock::time_point last_report = Clock::now();
  };

  void Loop();
  // Returns when the worker is lost, was never there, or Stop was called. `*reached`: it had answered.
  absl::Status ConnectAndFollow(bool* reached);
  absl::StatusOr<worker::v1::WorkerInfo> GetInfo();
  absl::StatusOr<std::string> FetchTokenizer();
  absl::Status Follow(bool* reached);
  void OnLoad(worker::v1::Load& load, const std::shared_ptr<KnownPrefixes>& prefixes);
  // Changes the snapshot and publishes it.
  void Update(const std::function<void(WorkerSnapshot&)>& change);
  // True when stopped meanwhile.
  bool PauseFor(Clock::duration pause);

  TokenizerCache* const tokenizers_;
  const Publish publish_;
  const WorkerLinkOptions options_;

  // Held while publishing, so that snapshots arrive in order.
  std::mutex snapshot_mutex_;
  WorkerSnapshot snapshot_;

  std::mutex mutex_;
  std::condition_variable stop_changed_;
  bool stopping_ = false;
  StoppableCalls calls_;
  std::shared_ptr<Watch> watch_;
  std::thread thread_;
};

}  // namespace baton
