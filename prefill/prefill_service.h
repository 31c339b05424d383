// baton.worker.v1.Prefill: checks a call and gives it to the engine, which answers it. Tests:
// tests/prefill/prefill_service_test.cc.
#pragma once

#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/rpc/drain_gate.h"
#include "common/rpc/tracing.h"
#include "prefill/prefill_engine.h"
#include "prefill/prefill_metrics.h"
#include "prefill/prefill_prompt.h"

namespace baton {

class PrefillService final : public worker::v1::Prefill::CallbackService {
 public:
  // All pointers must outlive the server it is added to. Calls are inside `gate` until they end; none enters once it is
  // closed.
  // `tracing` may be null.
  PrefillService(const PrefillLimits& limits, PrefillEngine* engine, PrefillMetrics* metrics, DrainGate* gate,
                 std::shared_ptr<const Tracing> tracing = nullptr);

  grpc::ServerWriteReactor<worker::v1::PrefillEvent>* Run(grpc::CallbackServerContext* context,
                                                          const worker::v1::PrefillRequest* request) override;

  ~PrefillService() override;

 private:
  // Reaches the engine from calls to other workers, which may outlive it.
  struct EngineLink {
    absl::Mutex mutex;
    PrefillEngine* engine ABSL_GUARDED_BY(mutex);
  };

  absl::Status Accept(const grpc::CallbackServerContext& context, const worker::v1::PrefillRequest& request,
                      const std::shared_ptr<PrefillCall>& call);
  void BeginTrace(const grpc::CallbackServerContext& context, const std::shared_ptr<PrefillCall>& call) const;
  // Reads the state that the prompt's session has, then gives the call to the engine; without it, if it cannot be had:
  // then all of the prompt is computed. False: there is nothing to read or no memory for it now.
  bool FetchFirst(const std::shared_ptr<PrefillCall>& call);
  std::shared_ptr<grpc::Channel> Channel(const std::string& endpoint);

  const PrefillLimits limits_;
  PrefillEngine* const engine_;
  PrefillMetrics* const metrics_;
  DrainGate* const gate_;
  const std::shared_ptr<const Tracing> tracing_;
  const std::shared_ptr<EngineLink> engine_link_ = std::make_shared<EngineLink>();

  absl::Mutex mutex_;
  // To decode workers that keep sessions, by endpoint.
  absl::flat_hash_map<std::string, std::shared_ptr<grpc::Channel>> channels_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace baton
