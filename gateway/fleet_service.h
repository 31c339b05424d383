// baton.v1.Fleet: the operator's view. Answers while draining too.
#pragma once

#include <grpcpp/grpcpp.h>

#include "baton/v1/inference.grpc.pb.h"
#include "gateway/admission_queue.h"
#include "gateway/timers.h"
#include "gateway/worker_registry.h"

namespace baton {

class FleetService final : public v1::Fleet::CallbackService {
 public:
  // Both must outlive it.
  FleetService(const WorkerRegistry* registry, const AdmissionQueue* queue) : registry_(registry), queue_(queue) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context, const v1::GetStatusRequest* request,
                                      v1::GetStatusResponse* response) override;

 private:
  const WorkerRegistry* const registry_;
  const AdmissionQueue* const queue_;
  const Clock::time_point started_ = Clock::now();
};

}  // namespace baton
