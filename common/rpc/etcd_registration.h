// Keeps a worker's record in etcd while the worker is there: written under a lease that is renewed three times in its
// life, written again whenever etcd has lost it, withdrawn when the worker drains. A worker that dies is forgotten when
// its lease ends. Without etcd a worker serves on; the record is written as soon as etcd answers.
//
//   EtcdRegistration registration(flags.etcd, {"decode", "10.0.0.7:7201", "gemma-2-2b-it", boot_id});
//   ...
//   registration.Withdraw();          // new gateways do not hear of this worker any more
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/rpc/etcd.h"
#include "common/rpc/worker_record.h"

namespace baton {

class EtcdRegistration {
 public:
  // Starts at once, on a thread of its own. `options` must be enabled().
  EtcdRegistration(EtcdOptions options, const WorkerRecord& record);
  ~EtcdRegistration() { Withdraw(); }
  EtcdRegistration(const EtcdRegistration&) = delete;

  // Takes at most a few seconds when etcd does not answer.
  void Withdraw();

 private:
  void Loop();
  // Returns when the lease is lost, with the reason, or when it was withdrawn.
  absl::Status HoldLease(const std::string& endpoint);
  // True when withdrawn meanwhile.
  bool PauseFor(absl::Duration pause);

  const EtcdOptions options_;
  const std::string key_;
  const std::string value_;

  std::mutex mutex_;
  std::condition_variable withdrawn_changed_;
  bool withdrawn_ = false;
  std::thread thread_;
};

}  // namespace baton
