// The workers in etcd: read once, then watched. When etcd is out of reach what was known stays, and members are tried
// in turn, for ever. Values that are no worker's record are passed over with a warning.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "common/rpc/etcd.h"
#include "common/rpc/stoppable_calls.h"
#include "etcd/rpc.grpc.pb.h"
#include "gateway/worker_directory.h"

namespace baton {

class EtcdDirectory final : public WorkerDirectory {
 public:
  explicit EtcdDirectory(EtcdOptions options) : options_(std::move(options)) {}
  ~EtcdDirectory() override { Stop(); }

  std::string name() const override { return "etcd"; }
  void Start(std::function<void()> changed) override;
  void Stop() override;
  absl::StatusOr<std::vector<WorkerRecord>> Workers() const override;

 private:
  void Loop();
  // Reads everything, then follows the changes. Returns, with the reason, when that goes no further.
  absl::Status Follow(const std::string& endpoint);
  // The revision that was read.
  absl::StatusOr<int64_t> ReadAll(const std::shared_ptr<grpc::Channel>& channel);
  absl::Status Watch(const std::shared_ptr<grpc::Channel>& channel, int64_t from_revision);
  void Put(const etcdserverpb::KeyValue& entry, std::map<std::string, WorkerRecord>* workers) const;

  const EtcdOptions options_;
  std::function<void()> changed_;

  StoppableCalls calls_;
  mutable std::mutex mutex_;
  std::condition_variable stop_changed_;
  // Guarded by mutex_.
  bool stopping_ = false;
  bool known_ = false;
  std::string problem_ = "etcd has not answered yet";
  // By key.
  std::map<std::string, WorkerRecord> workers_;
  std::thread thread_;
};

}  // namespace baton
