// baton.v1.Inference: the edge of the public API. Names the request (x-request-id), finds the model, checks the request
// and hands it to a session; small requests are answered on the spot.
//
// Each call enters the drain gate and leaves it when its last byte is out. Once the gate is closed, calls are refused
// with UNAVAILABLE (DRAINING).
#pragma once

#include <cstddef>
#include <memory>
#include <string>

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "baton/v1/inference.grpc.pb.h"
#include "common/rpc/drain_gate.h"
#include "gateway/gateway_metrics.h"
#include "gateway/generation_session.h"
#include "gateway/live_calls.h"
#include "gateway/model_catalog.h"
#include "gateway/request_record.h"

namespace baton {

// All outlive the service, and the service every call.
struct InferenceContext {
  const ModelCatalog* catalog = nullptr;
  GatewayMetrics* metrics = nullptr;
  DrainGate* gate = nullptr;
  SessionEnvironment sessions;
  // Events a stream may be behind before its reader is called too slow.
  size_t max_queued_events = 1024;
};

class InferenceService final : public v1::Inference::CallbackService {
 public:
  explicit InferenceService(const InferenceContext& context) : context_(context) {}

  // For a shutdown whose grace period is over: ends every generation and scoring with UNAVAILABLE (DRAINING).
  void AbortAll();

  grpc::ServerUnaryReactor* Generate(grpc::CallbackServerContext* context, const v1::GenerateRequest* request,
                                     v1::GenerateResponse* response) override;
  grpc::ServerWriteReactor<v1::GenerateEvent>* GenerateStream(grpc::CallbackServerContext* context,
                                                              const v1::GenerateRequest* request) override;
  grpc::ServerUnaryReactor* Tokenize(grpc::CallbackServerContext* context, const v1::TokenizeRequest* request,
                                     v1::TokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Detokenize(grpc::CallbackServerContext* context, const v1::DetokenizeRequest* request,
                                       v1::DetokenizeResponse* response) override;
  grpc::ServerUnaryReactor* Score(grpc::CallbackServerContext* context, const v1::ScoreRequest* request,
                                  v1::ScoreResponse* response) override;
  grpc::ServerUnaryReactor* ListModels(grpc::CallbackServerContext* context, const v1::ListModelsRequest* request,
                                       v1::ListModelsResponse* response) override;

 private:
  // A generation ready to start, or why not.
  absl::StatusOr<std::shared_ptr<GenerationSession>> MakeGeneration(Method method, grpc::CallbackServerContext* context,
                                                                    const v1::GenerateRequest& request);
  // The model of a request, and the record that names it from then on.
  absl::StatusOr<std::shared_ptr<const ServedModel>> FindModel(const std::string& name, RequestRecord* record) const;

  const InferenceContext context_;
  LiveCalls live_calls_;
};

}  // namespace baton
