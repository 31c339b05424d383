#include "common/rpc/etcd_registration.h"

#include <chrono>
#include <memory>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/status_mapping.h"
#include "etcd/rpc.grpc.pb.h"

namespace baton {
namespace {

using etcdserverpb::LeaseGrantResponse;
using etcdserverpb::LeaseKeepAliveRequest;
using etcdserverpb::LeaseKeepAliveResponse;

constexpr std::chrono::seconds kCallTimeout{2};
constexpr absl::Duration kRetryPause = absl::Seconds(1);

void SetDeadline(grpc::ClientContext* context) {
  context->set_deadline(std::chrono::system_clock::now() + kCallTimeout);
}

absl::StatusOr<int64_t> GrantLease(etcdserverpb::Lease::Stub* stub, int seconds) {
  grpc::ClientContext context;
  SetDeadline(&context);
  etcdserverpb::LeaseGrantRequest request;
  request.set_ttl(seconds);
  LeaseGrantResponse response;
  BATON_RETURN_IF_ERROR(FromGrpcStatus(stub->LeaseGrant(&context, request, &response)));
  if (!response.error().empty()) return absl::UnavailableError(response.error());
  return response.id();
}

// UNAVAILABLE when the lease is gone.
absl::Status RenewLease(etcdserverpb::Lease::Stub* stub, int64_t lease) {
  grpc::ClientContext context;
  SetDeadline(&context);
  const auto stream = stub->LeaseKeepAlive(&context);
  LeaseKeepAliveRequest request;
  request.set_id(lease);
  stream->Write(request);
  stream->WritesDone();
  LeaseKeepAliveResponse response;
  const bool answered = stream->Read(&response);
  context.TryCancel();
  const grpc::Status status = stream->Finish();
  if (!answered) return status.ok() ? absl::UnavailableError("etcd did not answer") : FromGrpcStatus(status);
  return response.ttl() > 0 ? absl::OkStatus() : absl::UnavailableError("etcd has forgotten the lease");
}

}  // namespace

EtcdRegistration::EtcdRegistration(EtcdOptions options, const WorkerRecord& record)
    : options_(std::move(options)),
      key_(WorkerRecordKey(options_.prefix, record)),
      value_(SerializeWorkerRecord(record)),
      thread_([this] { Loop(); }) {}

void EtcdRegistration::Withdraw() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    withdrawn_ = true;
    withdrawn_changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
}

bool EtcdRegistration::PauseFor(absl::Duration pause) {
  std::unique_lock<std::mutex> lock(mutex_);
  return withdrawn_changed_.wait_for(lock, absl::ToChronoMilliseconds(pause), [this] { return withdrawn_; });
}

void EtcdRegistration::Loop() {
  bool told = false;
  for (size_t next = 0;; ++next) {
    const std::string& endpoint = options_.endpoints[next % options_.endpoints.size()];
    const absl::Time begin = absl::Now();
    const absl::Status status = HoldLease(endpoint);
    if (PauseFor(absl::ZeroDuration())) return;
    // One line for an outage, not one for each attempt.
    const bool was_held = absl::Now() - begin > absl::Seconds(options_.lease_seconds);
    if (was_held || !told) {
      Log(Severity::kWarning, "etcd_unreachable").With("endpoint", endpoint).With("error", status);
      told = true;
    }
    if (PauseFor(kRetryPause)) return;
  }
}

absl::Status EtcdRegistration::HoldLease(const std::string& endpoint) {
  BATON_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel, NewEtcdChannel(options_, endpoint));
  const auto leases = etcdserverpb::Lease::NewStub(channel);
  BATON_ASSIGN_OR_RETURN(const int64_t lease, GrantLease(leases.get(), options_.lease_seconds));
  {
    grpc::ClientContext context;
    SetDeadline(&context);
    etcdserverpb::PutRequest request;
    request.set_key(key_);
    request.set_value(value_);
    request.set_lease(lease);
    etcdserverpb::PutResponse response;
    BATON_RETURN_IF_ERROR(FromGrpcStatus(etcdserverpb::KV::NewStub(channel)->Put(&context, request, &response)));
  }
  Log(Severity::kInfo, "registered").With("etcd", endpoint).With("key", key_);
  while (!PauseFor(absl::Seconds(options_.lease_seconds) / 3)) {
    BATON_RETURN_IF_ERROR(RenewLease(leases.get(), lease));
  }
  grpc::ClientContext context;
  SetDeadline(&context);
  etcdserverpb::LeaseRevokeRequest request;
  request.set_id(lease);
  etcdserverpb::LeaseRevokeResponse response;
  return FromGrpcStatus(leases->LeaseRevoke(&context, request, &response));
}

}  // namespace baton
