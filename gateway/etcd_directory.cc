#include "gateway/etcd_directory.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

using etcdserverpb::Event;

constexpr std::chrono::seconds kReadTimeout{3};
constexpr std::chrono::seconds kRetryPause{1};
// A directory of more is not one of workers.
constexpr int64_t kMaxWorkers = 4096;

}  // namespace

void EtcdDirectory::Start(std::function<void()> changed) {
  changed_ = std::move(changed);
  thread_ = std::thread([this] { Loop(); });
}

void EtcdDirectory::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    calls_.Stop();
    stop_changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<std::vector<WorkerRecord>> EtcdDirectory::Workers() const {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!known_) return absl::UnavailableError(problem_);
  std::vector<WorkerRecord> workers;
  workers.reserve(workers_.size());
  for (const auto& [key, worker] : workers_) workers.push_back(worker);
  return workers;
}

void EtcdDirectory::Loop() {
  std::string told;
  for (size_t next = 0;; ++next) {
    const std::string& endpoint = options_.endpoints[next % options_.endpoints.size()];
    const absl::Status status = Follow(endpoint);
    {
      std::unique_lock<std::mutex> lock(mutex_);
      if (stopping_) return;
      problem_ = absl::StrCat("etcd at ", endpoint, ": ", std::string(status.message()));
      if (std::exchange(told, problem_) != problem_) {
        Log(Severity::kWarning, "etcd_unreachable").With("endpoint", endpoint).With("error", status);
      }
    }
    changed_();
    std::unique_lock<std::mutex> lock(mutex_);
    if (stop_changed_.wait_for(lock, kRetryPause, [this] { return stopping_; })) return;
  }
}

absl::Status EtcdDirectory::Follow(const std::string& endpoint) {
  BATON_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel, NewEtcdChannel(options_, endpoint));
  BATON_ASSIGN_OR_RETURN(const int64_t revision, ReadAll(channel));
  return Watch(channel, revision + 1);
}

absl::StatusOr<int64_t> EtcdDirectory::ReadAll(const std::shared_ptr<grpc::Channel>& channel) {
  grpc::ClientContext context;
  const StoppableCalls::Scope call(&calls_, &context);
  if (!call.ok()) return absl::CancelledError("stopped");
  context.set_deadline(std::chrono::system_clock::now() + kReadTimeout);
  etcdserverpb::RangeRequest request;
  request.set_key(options_.prefix);
  request.set_range_end(EtcdPrefixEnd(options_.prefix));
  request.set_limit(kMaxWorkers);
  etcdserverpb::RangeResponse response;
  const auto stub = etcdserverpb::KV::NewStub(channel);
  BATON_RETURN_IF_ERROR(FromGrpcStatus(stub->Range(&context, request, &response)));
  std::map<std::string, WorkerRecord> workers;
  for (const etcdserverpb::KeyValue& entry : response.kvs()) Put(entry, &workers);
  Log(Severity::kInfo, "etcd_read").With("workers", static_cast<int64_t>(workers.size()));
  {
    std::lock_guard<std::mutex> lock(mutex_);
    workers_ = std::move(workers);
    known_ = true;
  }
  changed_();
  return response.header().revision();
}

absl::Status EtcdDirectory::Watch(const std::shared_ptr<grpc::Channel>& channel, int64_t from_revision) {
  grpc::ClientContext context;
  const StoppableCalls::Scope call(&calls_, &context);
  if (!call.ok()) return absl::CancelledError("stopped");
  const auto stream = etcdserverpb::Watch::NewStub(channel)->Watch(&context);
  etcdserverpb::WatchRequest request;
  request.mutable_create_request()->set_key(options_.prefix);
  request.mutable_create_request()->set_range_end(EtcdPrefixEnd(options_.prefix));
  request.mutable_create_request()->set_start_revision(from_revision);
  stream->Write(request);
  etcdserverpb::WatchResponse response;
  while (stream->Read(&response)) {
    if (response.canceled()) {
      // The changes since the read are forgotten already: read everything again.
      context.TryCancel();
      stream->Finish();
      return absl::UnavailableError(absl::StrCat("the watch was ended: ", response.cancel_reason()));
    }
    if (response.events().empty()) continue;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      for (const Event& event : response.events()) {
        if (event.type() == Event::DELETE) {
          workers_.erase(event.kv().key());
        } else if (static_cast<int64_t>(workers_.size()) < kMaxWorkers) {
          Put(event.kv(), &workers_);
        }
      }
    }
    changed_();
  }
  const grpc::Status status = stream->Finish();
  return status.ok() ? absl::UnavailableError("the watch ended") : FromGrpcStatus(status);
}

void EtcdDirectory::Put(const etcdserverpb::KeyValue& entry, std::map<std::string, WorkerRecord>* workers) const {
  absl::StatusOr<WorkerRecord> record = ParseWorkerRecord(entry.value());
  if (record.ok()) {
    (*workers)[entry.key()] = *std::move(record);
    return;
  }
  workers->erase(entry.key());
  Log(Severity::kWarning, "etcd_entry_ignored").With("key", entry.key()).With("error", record.status());
}

}  // namespace baton
