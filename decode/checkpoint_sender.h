// Sends copies of running sequences' states to standbys: other decode workers that the gateway named, which keep them
// so that the request can go on there should this worker be lost (state_checkpoints.h).
//
// The engine gives a copy away and goes on; a thread of the sender's cuts it up, gRPC threads write it, in the wire
// format of a handoff. At most one copy of a sequence is on its way at a time. When a standby fails, the next copy goes
// to the next one, after a pause that grows; when the sequence ends, its copies are dropped wherever they are.
//
//   CheckpointSender sender(options, fingerprint, &metrics);
//   CheckpointLease lease = sender.Begin(request_id, standbys, generated);            // one sequence's; until it goes
//   if (lease->Due(generated)) sender.Send(lease, generated, *state.Fork(...), next_token);
//   if (lease->TakeCommitted(&committed)) ... tell the gateway: position, key, standby
//
// Thread-safe, but a series is for one thread, the engine's.
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/rpc/channel.h"
#include "common/rpc/decode_peers.h"
#include "common/rpc/handoff_sender.h"
#include "common/state/fingerprint.h"
#include "common/state/sequence_state.h"
#include "decode/checkpoint_metrics.h"

namespace baton {

// Copies on their way to one standby, of all sequences together; also the size of the memory shared with it.
inline constexpr int64_t kCheckpointCreditBytes = int64_t{16} << 20;

struct CheckpointSenderOptions {
  // Generated tokens between two copies.
  int tokens = 256;
  // Bytes on their way to one standby.
  int64_t credit_bytes = kCheckpointCreditBytes;
  // A copy that takes longer has failed.
  absl::Duration timeout = absl::Seconds(20);
  // How standbys are connected to.
  ChannelOptions channel;
  // Called, from any thread, when memory of a copy may have become free.
  std::function<void()> on_freed = [] {};
};

// What a standby has verified.
struct CommittedCheckpoint {
  int64_t position = 0;
  int standby = 0;
};

// The copies of one sequence.
class CheckpointSeries {
 public:
  // It is time for a copy, and none is on its way.
  bool Due(int64_t generated) const { return generated >= due_ && !in_flight_.load(std::memory_order_acquire); }
  // True once after a copy was committed.
  bool TakeCommitted(CommittedCheckpoint* committed);
  // True once after a copy has left: the pages it shared may be the sequence's own again.
  bool TakeLanded() {
    if (in_flight_.load(std::memory_order_acquire) || !sent_) return false;
    sent_ = false;
    return true;
  }
  const worker::v1::SessionKey& key() const { return key_; }

 private:
  friend class CheckpointSender;
  CheckpointSeries(std::string request_id, std::vector<std::string> standbys, int64_t tokens, int64_t due);

  const std::string request_id_;
  const std::vector<std::string> standbys_;
  const int64_t tokens_;
  const worker::v1::SessionKey key_;
  // The engine's.
  int64_t due_;
  bool sent_ = false;
  int64_t told_ = 0;

  std::atomic<bool> in_flight_{false};
  std::atomic<int> failures_{0};
  // Position and standby of the last one committed: position * kMaxStandbys + standby.
  std::atomic<int64_t> committed_{0};

  // The sender thread's.
  std::shared_ptr<HandoffSender> transfer_;
  int64_t position_ = 0;
  size_t standby_ = 0;
  // Standbys that may have a copy.
  std::vector<bool> told_standbys_;
  bool ended_ = false;
};

class CheckpointSender;

// A series, which ends with its lease. Movable; empty when default-constructed or moved from.
class CheckpointLease {
 public:
  CheckpointLease() = default;
  CheckpointLease(CheckpointLease&& other) noexcept = default;
  CheckpointLease& operator=(CheckpointLease&& other) noexcept {
    std::swap(sender_, other.sender_);
    std::swap(series_, other.series_);
    return *this;
  }
  ~CheckpointLease();
  explicit operator bool() const { return series_ != nullptr; }
  CheckpointSeries* operator->() const { return series_.get(); }

 private:
  friend class CheckpointSender;
  CheckpointLease(CheckpointSender* sender, std::shared_ptr<CheckpointSeries> series)
      : sender_(sender), series_(std::move(series)) {}

  CheckpointSender* sender_ = nullptr;
  std::shared_ptr<CheckpointSeries> series_;
};

class CheckpointSender {
 public:
  // `metrics` must outlive it.
  CheckpointSender(const CheckpointSenderOptions& options, const Fingerprint& fingerprint, CheckpointMetrics* metrics);
  // Ends what is on its way.
  ~CheckpointSender();
  CheckpointSender(const CheckpointSender&) = delete;

  // `standbys`: at least one, at most kMaxStandbys. Must outlive the lease.
  CheckpointLease Begin(std::string request_id, std::vector<std::string> standbys, int64_t generated);
  // `state` has consumed all tokens but `next_token`. Only when Due.
  void Send(const CheckpointLease& lease, int64_t generated, SequenceState state, int32_t next_token);
  // There was no memory for a copy: the next one is for later.
  void Skip(const CheckpointLease& lease, int64_t generated);

 private:
  friend class CheckpointLease;
  struct Task {
    std::shared_ptr<CheckpointSeries> series;
    // To be sent; absent: the series has ended, or its transfer is over.
    std::shared_ptr<const SequenceState> state;
    int32_t next_token = 0;
    bool ended = false;
  };
  // What gRPC calls share with the sender, which they may outlive.
  struct Inbox {
    absl::Mutex mutex;
    std::deque<Task> tasks ABSL_GUARDED_BY(mutex);
    bool stopping ABSL_GUARDED_BY(mutex) = false;
    // Drops that standbys have not answered.
    int drops ABSL_GUARDED_BY(mutex) = 0;
  };

  void End(std::shared_ptr<CheckpointSeries> series);
  void Loop();
  // The next thing to do. False: nothing more.
  bool Next(Task* task);
  void Run(Task task);
  void Transfer(Task& task);
  void Over(CheckpointSeries& series);
  void Drop(CheckpointSeries& series);

  const CheckpointSenderOptions options_;
  const Fingerprint fingerprint_;
  CheckpointMetrics* const metrics_;
  const std::shared_ptr<Inbox> inbox_ = std::make_shared<Inbox>();
  // The thread's.
  DecodePeers peers_;
  std::vector<std::shared_ptr<CheckpointSeries>> transferring_;
  bool cancelled_ = false;
  std::thread thread_;
};

}  // namespace baton
