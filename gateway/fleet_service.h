// baton.v1.Fleet: the operator's view. Answers while draining too. Where API keys are checked, only to keys with
// `operator=yes`; other clients may see the traces of their own requests.
#pragma once

#include <grpcpp/grpcpp.h>

#include "baton/v1/inference.grpc.pb.h"
#include "common/rpc/tracing.h"
#include "gateway/admission_queue.h"
#include "gateway/authenticator.h"
#include "gateway/fleet_activity.h"
#include "gateway/router.h"
#include "gateway/timers.h"
#include "gateway/worker_registry.h"

namespace baton {

class FleetService final : public v1::Fleet::CallbackService {
 public:
  // All must outlive it.
  FleetService(const WorkerRegistry* registry, const Router* router, const AdmissionQueue* queue,
               const FleetActivity* activity, Authenticator* authenticator, const Tracing* tracing)
      : registry_(registry),
        router_(router),
        queue_(queue),
        activity_(activity),
        authenticator_(authenticator),
        tracing_(tracing) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context, const v1::GetStatusRequest* request,
                                      v1::GetStatusResponse* response) override;
  grpc::ServerUnaryReactor* GetTrace(grpc::CallbackServerContext* context, const v1::GetTraceRequest* request,
                                     v1::GetTraceResponse* response) override;

 private:
  // The newest of this id that the caller may see.
  absl::StatusOr<std::shared_ptr<const CallTrace>> FindTrace(const grpc::CallbackServerContext& context,
                                                             const std::string& request_id) const;

  void Describe(const WorkerSnapshot& snapshot, Clock::duration window, Clock::time_point now,
                v1::WorkerStatus* status) const;

  const WorkerRegistry* const registry_;
  const Router* const router_;
  const AdmissionQueue* const queue_;
  const FleetActivity* const activity_;
  Authenticator* const authenticator_;
  const Tracing* const tracing_;
  const Clock::time_point started_ = Clock::now();
};

}  // namespace baton
