// As much of an etcd member as workers and gateways see of it, in this process: keys, leases that end when the test
// says so, watches.
//
//   FakeEtcd etcd;
//   etcd.Put("/baton/workers/decode/b1", "...");
//   etcd.ForgetLeases();      // as if all had run out
//   etcd.Stop();              // unreachable from now on
#pragma once

#include <condition_variable>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "etcd/rpc.grpc.pb.h"

namespace baton {

class FakeEtcd {
 public:
  // `port` 0: a free one.
  explicit FakeEtcd(int port = 0) : kv_(this), lease_(this), watch_(this) {
    grpc::ServerBuilder builder;
    builder.AddListeningPort(absl::StrCat("127.0.0.1:", port), grpc::InsecureServerCredentials(), &port_);
    builder.RegisterService(&kv_);
    builder.RegisterService(&lease_);
    builder.RegisterService(&watch_);
    server_ = builder.BuildAndStart();
  }
  ~FakeEtcd() { Stop(); }
  FakeEtcd(const FakeEtcd&) = delete;

  std::string address() const { return absl::StrCat("127.0.0.1:", port_); }
  int port() const { return port_; }

  void Stop() {
    EndWatches("");
    if (server_ != nullptr) server_->Shutdown(std::chrono::system_clock::now());
    server_.reset();
  }
  std::map<std::string, std::string> Keys() {
    std::lock_guard<std::mutex> lock(mutex_);
    return keys_;
  }
  void Put(const std::string& key, const std::string& value) {
    std::lock_guard<std::mutex> lock(mutex_);
    PutLocked(key, value, 0);
  }
  void Delete(const std::string& key) {
    std::lock_guard<std::mutex> lock(mutex_);
    DeleteLocked(key);
  }
  void ForgetLeases() {
    std::lock_guard<std::mutex> lock(mutex_);
    while (!leases_.empty()) RevokeLocked(leases_.begin()->first);
  }
  // Every watch is cancelled with this reason (empty: just ends), and must be made anew.
  void EndWatches(const std::string& reason) {
    std::lock_guard<std::mutex> lock(mutex_);
    end_reason_ = reason;
    ++watch_generation_;
    changed_.notify_all();
  }

 private:
  struct KvService final : etcdserverpb::KV::Service {
    explicit KvService(FakeEtcd* etcd) : etcd(etcd) {}
    grpc::Status Range(grpc::ServerContext*, const etcdserverpb::RangeRequest* request,
                       etcdserverpb::RangeResponse* response) override {
      std::lock_guard<std::mutex> lock(etcd->mutex_);
      response->mutable_header()->set_revision(static_cast<int64_t>(etcd->events_.size()));
      for (auto entry = etcd->keys_.lower_bound(request->key());
           entry != etcd->keys_.end() && entry->first < request->range_end(); ++entry) {
        etcdserverpb::KeyValue* const kv = response->add_kvs();
        kv->set_key(entry->first);
        kv->set_value(entry->second);
      }
      return grpc::Status::OK;
    }
    grpc::Status Put(grpc::ServerContext*, const etcdserverpb::PutRequest* request,
                     etcdserverpb::PutResponse*) override {
      std::lock_guard<std::mutex> lock(etcd->mutex_);
      if (request->lease() != 0 && etcd->leases_.count(request->lease()) == 0) {
        return grpc::Status(grpc::StatusCode::NOT_FOUND, "no such lease");
      }
      etcd->PutLocked(request->key(), request->value(), request->lease());
      return grpc::Status::OK;
    }
    FakeEtcd* const etcd;
  };
  struct LeaseService final : etcdserverpb::Lease::Service {
    explicit LeaseService(FakeEtcd* etcd) : etcd(etcd) {}
    grpc::Status LeaseGrant(grpc::ServerContext*, const etcdserverpb::LeaseGrantRequest* request,
                            etcdserverpb::LeaseGrantResponse* response) override {
      std::lock_guard<std::mutex> lock(etcd->mutex_);
      response->set_id(++etcd->last_lease_);
      response->set_ttl(request->ttl());
      etcd->leases_[etcd->last_lease_];
      return grpc::Status::OK;
    }
    grpc::Status LeaseRevoke(grpc::ServerContext*, const etcdserverpb::LeaseRevokeRequest* request,
                             etcdserverpb::LeaseRevokeResponse*) override {
      std::lock_guard<std::mutex> lock(etcd->mutex_);
      etcd->RevokeLocked(request->id());
      return grpc::Status::OK;
    }
    grpc::Status LeaseKeepAlive(grpc::ServerContext*,
                                grpc::ServerReaderWriter<etcdserverpb::LeaseKeepAliveResponse,
                                                         etcdserverpb::LeaseKeepAliveRequest>* stream) override {
      etcdserverpb::LeaseKeepAliveRequest request;
      while (stream->Read(&request)) {
        etcdserverpb::LeaseKeepAliveResponse response;
        response.set_id(request.id());
        {
          std::lock_guard<std::mutex> lock(etcd->mutex_);
          response.set_ttl(etcd->leases_.count(request.id()) > 0 ? 10 : 0);
        }
        stream->Write(response);
      }
      return grpc::Status::OK;
    }
    FakeEtcd* const etcd;
  };
  struct WatchService final : etcdserverpb::Watch::Service {
    explicit WatchService(FakeEtcd* etcd) : etcd(etcd) {}
    grpc::Status Watch(
        grpc::ServerContext* context,
        grpc::ServerReaderWriter<etcdserverpb::WatchResponse, etcdserverpb::WatchRequest>* stream) override {
      etcdserverpb::WatchRequest request;
      if (!stream->Read(&request)) return grpc::Status::OK;
      stream->Write(etcdserverpb::WatchResponse());  // Created.
      std::unique_lock<std::mutex> lock(etcd->mutex_);
      size_t next = static_cast<size_t>(request.create_request().start_revision()) - 1;
      const int generation = etcd->watch_generation_;
      while (true) {
        // A client that goes away is noticed without its doing anything.
        etcd->changed_.wait_for(lock, std::chrono::milliseconds(20),
                                [&] { return next < etcd->events_.size() || etcd->watch_generation_ != generation; });
        if (context->IsCancelled()) return grpc::Status::OK;
        etcdserverpb::WatchResponse response;
        if (etcd->watch_generation_ != generation) {
          if (etcd->end_reason_.empty()) return grpc::Status::OK;
          response.set_canceled(true);
          response.set_cancel_reason(etcd->end_reason_);
          stream->Write(response);
          return grpc::Status::OK;
        }
        while (next < etcd->events_.size()) *response.add_events() = etcd->events_[next++];
        lock.unlock();
        if (!response.events().empty()) stream->Write(response);
        lock.lock();
      }
    }
    FakeEtcd* const etcd;
  };

  void PutLocked(const std::string& key, const std::string& value, int64_t lease) {
    keys_[key] = value;
    if (lease != 0) leases_[lease].push_back(key);
    etcdserverpb::Event event;
    event.mutable_kv()->set_key(key);
    event.mutable_kv()->set_value(value);
    events_.push_back(event);
    changed_.notify_all();
  }
  void DeleteLocked(const std::string& key) {
    if (keys_.erase(key) == 0) return;
    etcdserverpb::Event event;
    event.set_type(etcdserverpb::Event::DELETE);
    event.mutable_kv()->set_key(key);
    events_.push_back(event);
    changed_.notify_all();
  }
  void RevokeLocked(int64_t lease) {
    for (const std::string& key : leases_[lease]) DeleteLocked(key);
    leases_.erase(lease);
  }

  int port_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_. An event's revision is its index plus one.
  std::map<std::string, std::string> keys_;
  std::map<int64_t, std::vector<std::string>> leases_;
  int64_t last_lease_ = 0;
  std::vector<etcdserverpb::Event> events_;
  int watch_generation_ = 0;
  std::string end_reason_;
  KvService kv_;
  LeaseService lease_;
  WatchService watch_;
  std::unique_ptr<grpc::Server> server_;
};

}  // namespace baton
