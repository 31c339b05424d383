// baton.worker.v1.Prefill: checks a call and gives it to the engine, which answers it. Tests:
// tests/prefill/prefill_service_test.cc.
#pragma once

#include <grpcpp/grpcpp.h>

#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/rpc/drain_gate.h"
#include "prefill/prefill_engine.h"
#include "prefill/prefill_metrics.h"
#include "prefill/prefill_prompt.h"

namespace baton {

class PrefillService final : public worker::v1::Prefill::CallbackService {
 public:
  // All pointers must outlive the server it is added to. Calls are inside `gate` until they end; none enters once it is
  // closed.
  PrefillService(const PrefillLimits& limits, PrefillEngine* engine, PrefillMetrics* metrics, DrainGate* gate);

  grpc::ServerWriteReactor<worker::v1::PrefillEvent>* Run(grpc::CallbackServerContext* context,
                                                          const worker::v1::PrefillRequest* request) override;

 private:
  absl::Status Accept(const worker::v1::PrefillRequest& request, const std::shared_ptr<PrefillCall>& call);

  const PrefillLimits limits_;
  PrefillEngine* const engine_;
  PrefillMetrics* const metrics_;
  DrainGate* const gate_;
};

}  // namespace baton
