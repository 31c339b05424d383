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
#include "absl/synchronization/mutex.h"
#include "baton/v1/inference.grpc.pb.h"
#include "common/observe/tracer.h"
#include "common/rpc/drain_gate.h"
#include "common/rpc/write_pacer.h"
#include "gateway/authenticator.h"
#include "gateway/gateway_metrics.h"
#include "gateway/generation_session.h"
#include "gateway/live_calls.h"
#include "gateway/model_catalog.h"
#include "gateway/request_record.h"
#include "gateway/text_lane.h"

namespace baton {

// All outlive the service, and the service every call.
struct InferenceContext {
  Authenticator* authenticator = nullptr;
  const ModelCatalog* catalog = nullptr;
  GatewayMetrics* metrics = nullptr;
  DrainGate* gate = nullptr;
  // Null: requests are not traced.
  Tracer* tracer = nullptr;
  SessionEnvironment sessions;
  TextLane* text_lane = nullptr;
  // Events a stream may be behind before its reader is called too slow.
  size_t max_queued_events = 1024;
};

class InferenceService final : public v1::Inference::CallbackService {
 public:
  explicit InferenceService(const InferenceContext& context);
  ~InferenceService() override;

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
  // Names the call, finds out who calls, lets the client in and finds the model; fills in `record`.
  absl::StatusOr<std::shared_ptr<const ServedModel>> Identify(grpc::CallbackServerContext* context,
                                                              const std::string& request_id, const std::string& model,
                                                              int priority, RequestRecord* record) const;
  // Checks a request, off gRPC's threads when it is large, and starts its session with what comes of it.
  template <typename Session, typename Request, typename Check>
  void CheckAndStart(const std::shared_ptr<Session>& session, const Request& request, const std::string& request_id,
                     absl::StatusOr<std::shared_ptr<const ServedModel>> model, Check check);
  // The same for a generation, which may go on with a kept conversation.
  void StartGeneration(grpc::CallbackServerContext* context, const std::shared_ptr<GenerationSession>& session,
                       const v1::GenerateRequest& request, const RequestRecord& record,
                       absl::StatusOr<std::shared_ptr<const ServedModel>> model);
  // Answers a call about text on the spot, or off gRPC's threads when it is large.
  template <typename Request, typename Response>
  grpc::ServerUnaryReactor* AnswerText(Method method, grpc::CallbackServerContext* context, const Request* request,
                                       Response* response,
                                       absl::StatusOr<Response> (*answer)(const Request&, const ServedModel&));

  // Reaches the service from calls to workers, which may outlive it.
  struct Link {
    absl::Mutex mutex;
    InferenceService* service ABSL_GUARDED_BY(mutex);
  };

  const InferenceContext context_;
  const std::shared_ptr<Link> link_ = std::make_shared<Link>();
  LiveCalls live_calls_;
  WritePacer write_pacer_;
};

}  // namespace baton
