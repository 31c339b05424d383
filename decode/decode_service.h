// baton.worker.v1.Decode: reserve, receive state, decode, stream token ids.
//
//   DecodeServiceOptions options;
//   options.model_name = "tiny-gemma2";  options.boot_id = NewBootId();  options.max_tokens = 8192;
//   DecodeService service(&model, options, &budget, &metrics, &load, &gate);
//   server.AddService(&service);  server.Start();
//   service.SetEndpoint(server.address());
//   ...
//   server.Stop(grace);  service.Stop();
#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "absl/base/call_once.h"
#include "absl/container/flat_hash_map.h"
#include "absl/synchronization/mutex.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/model/model.h"
#include "common/observe/metrics.h"
#include "common/rpc/channel.h"
#include "common/rpc/drain_gate.h"
#include "common/rpc/tracing.h"
#include "common/rpc/worker_service.h"
#include "common/state/memory_budget.h"
#include "common/text/vocabulary.h"
#include "decode/checkpoint_metrics.h"
#include "decode/checkpoint_sender.h"
#include "decode/decode_metrics.h"
#include "decode/engine.h"
#include "decode/left_states.h"
#include "decode/reservations.h"
#include "decode/session_metrics.h"
#include "decode/sessions.h"
#include "decode/state_checkpoints.h"
#include "decode/state_receiver.h"

namespace baton {

struct DecodeServiceOptions {
  std::string model_name;
  std::string boot_id;
  // Prompt plus output.
  int64_t max_tokens = 0;
  // Prompts are computed here where engine.local_prefill_chunk is not 0.
  DecodeEngineOptions engine;
  SessionOptions sessions;
  CheckpointOptions checkpoints;
  // How other decode workers are connected to.
  ChannelOptions channel;
  // May be null.
  std::shared_ptr<const Tracing> tracing;
};

// A decode step appends one token to each running sequence, and to a prompt that is computed here a chunk.
inline int DecodeRunTokens(const DecodeEngineOptions& options) { return std::max(1, options.local_prefill_chunk); }

// Receive's messages are taken as the network delivers them: see StateMessage.
using DecodeServiceBase = worker::v1::Decode::WithCallbackMethod_Run<
    worker::v1::Decode::WithCallbackMethod_EndSamples<worker::v1::Decode::WithCallbackMethod_OpenSession<
        worker::v1::Decode::WithCallbackMethod_ReadSession<worker::v1::Decode::WithCallbackMethod_DropCheckpoint<
            worker::v1::Decode::WithRawCallbackMethod_Receive<worker::v1::Decode::Service>>>>>>;

class DecodeService final : public DecodeServiceBase {
 public:
  // Starts the engine. Everything pointed at must outlive the service; it is the model's only user.
  DecodeService(Model* model, const DecodeServiceOptions& options, MemoryBudget* budget, Metrics* metrics,
                LoadReporter* load, DrainGate* gate);
  ~DecodeService() override;
  DecodeService(const DecodeService&) = delete;

  // host:port at which prefill workers reach this service. Before the first request.
  void SetEndpoint(const std::string& endpoint);
  // What runs, and what comes yet, stops: others go on with it (Leaving).
  void Leave() { engine_.Leave(&left_states_); }
  // Until what was left has been fetched, at most so long. False: some was not.
  bool AwaitLeft(absl::Duration patience) { return left_states_.AwaitTaken(patience); }
  // Stops the engine; after the server has stopped.
  void Stop();

  grpc::ServerWriteReactor<worker::v1::DecodeEvent>* Run(grpc::CallbackServerContext* context,
                                                         const worker::v1::DecodeRequest* request) override;
  grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>* Receive(grpc::CallbackServerContext* context) override;
  grpc::ServerUnaryReactor* EndSamples(grpc::CallbackServerContext* context,
                                       const worker::v1::EndSamplesRequest* request,
                                       worker::v1::EndSamplesResponse* response) override;

  grpc::ServerUnaryReactor* OpenSession(grpc::CallbackServerContext* context,
                                        const worker::v1::OpenSessionRequest* request,
                                        worker::v1::OpenSessionResponse* response) override;
  grpc::ServerWriteReactor<worker::v1::StateChunk>* ReadSession(grpc::CallbackServerContext* context,
                                                                const worker::v1::ReadSessionRequest* request) override;
  grpc::ServerUnaryReactor* DropCheckpoint(grpc::CallbackServerContext* context,
                                           const worker::v1::DropCheckpointRequest* request,
                                           worker::v1::DropCheckpointResponse* response) override;

 private:
  // A reservation's id and generation, which name its Run call to the end.
  using CallKey = std::pair<uint64_t, uint64_t>;

  absl::Status AskOfSamples(const worker::v1::EndSamplesRequest& request);
  // What the tokens say, of a request that needs it; null when the checkpoint has no tokenizer, or a bad one. Read when
  // first asked for: few requests ever do.
  const Vocabulary* VocabularyFor(const SequenceRequest& request);
  absl::Status DescribeSession(const worker::v1::OpenSessionRequest& request,
                               worker::v1::OpenSessionResponse* response);
  absl::StatusOr<std::unique_ptr<SessionFrames>> SessionState(const worker::v1::ReadSessionRequest& request);
  // Of the worker of one model, by a key of a session.
  absl::Status CheckSessionRequest(const std::string& fingerprint, const worker::v1::SessionKey& key) const;
  // What a prompt that is computed here goes on from; nothing when it names no session.
  absl::StatusOr<StateSnapshot> BeginningOf(const SequenceRequest& request);
  // Memory that is held for what may be of use some day gives way, copies first: they are worth least.
  bool MakeRoom(int64_t bytes) { return checkpoints_.MakeRoom(bytes) || sessions_.MakeRoom(bytes); }
  grpc::ServerWriteReactor<worker::v1::DecodeEvent>* Refuse(const worker::v1::DecodeRequest& request,
                                                            const absl::Status& status);
  worker::v1::DecodeEvent ReservationEvent(const Reservation& reservation) const;

  // Of a call that was checked.
  Span BeginTrace(const grpc::CallbackServerContext& context, const SequenceRequest& request) const;

  DrainGate* const gate_;
  const std::shared_ptr<const Tracing> tracing_;
  const RequestLimits limits_;
  const Model* const model_;
  absl::once_flag vocabulary_read_;
  // Set once.
  std::unique_ptr<const Vocabulary> vocabulary_;
  const bool computes_prompts_;
  DecodeMetrics metrics_;
  SessionMetrics session_metrics_;
  CheckpointMetrics checkpoint_metrics_;
  Sessions sessions_;
  StateCheckpoints checkpoints_;
  LeftStates left_states_;
  // Null: no copies are made.
  const std::unique_ptr<CheckpointSender> checkpoint_sender_;
  DecodeEngine engine_;
  Reservations reservations_;
  StateReceiverContext receiver_context_;

  mutable absl::Mutex mutex_;
  std::string endpoint_ ABSL_GUARDED_BY(mutex_);
  // Run calls that have not ended.
  absl::flat_hash_map<CallKey, std::shared_ptr<DecodeCall>> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace baton
