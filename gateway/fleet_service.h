// baton.v1.Fleet: the operator's view. Answers while draining too. Where API keys are checked, only to keys with
// `operator=yes`.
#pragma once

#include <grpcpp/grpcpp.h>

#include "baton/v1/inference.grpc.pb.h"
#include "gateway/admission_queue.h"
#include "gateway/authenticator.h"
#include "gateway/timers.h"
#include "gateway/worker_registry.h"

namespace baton {

class FleetService final : public v1::Fleet::CallbackService {
 public:
  // All must outlive it.
  FleetService(const WorkerRegistry* registry, const AdmissionQueue* queue, Authenticator* authenticator)
      : registry_(registry), queue_(queue), authenticator_(authenticator) {}

  grpc::ServerUnaryReactor* GetStatus(grpc::CallbackServerContext* context, const v1::GetStatusRequest* request,
                                      v1::GetStatusResponse* response) override;

 private:
  const WorkerRegistry* const registry_;
  const AdmissionQueue* const queue_;
  Authenticator* const authenticator_;
  const Clock::time_point started_ = Clock::now();
};

}  // namespace baton
