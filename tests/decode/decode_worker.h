// A decode worker on a loopback port inside the test, the two kinds of peers it has (a gateway's Run, a prefill
// worker's Receive), and what a plain loop in one process gives for the same request.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/status/status.h"
#include "absl/types/optional.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/model/model.h"
#include "common/observe/metrics.h"
#include "common/rpc/drain_gate.h"
#include "common/rpc/server.h"
#include "common/rpc/worker_service.h"
#include "common/state/memory_budget.h"
#include "common/state/state_codec.h"
#include "decode/decode_service.h"

namespace baton {

// Bundled models, loaded once. A model has one user at a time, so workers and the plain loop each have their own.
Model& WorkerModel(const std::string& name, int worker = 0);
Model& LoopModel(const std::string& name);

// `count` ids that are no control tokens, the same for the same seed.
std::vector<int32_t> RandomPrompt(int count, uint64_t seed);

// A greedy request without logprobs and stop tokens.
worker::v1::DecodeRequest MakeRequest(const Model& model, const std::vector<int32_t>& prompt, int max_new_tokens);

// What a request must give, and the state to hand over for it.
struct Expectation {
  worker::v1::DecodeRequest request;
  int32_t first_token = 0;
  // After the first one.
  std::vector<int32_t> tokens;
  std::vector<worker::v1::TokenLogprobs> logprobs;
  worker::v1::DoneReason reason = worker::v1::LENGTH;
  // The wire format in messages of a few KiB; the last one ends with the commit.
  std::vector<std::string> messages;
};
// `handed_over`: the first tokens that the commit is made to say, if not the right one.
Expectation RunPlainLoop(const std::string& model_name, const worker::v1::DecodeRequest& request,
                         const std::vector<FirstTokenRecord>& handed_over = {});

// The gateway's side of one request.
class RunStream {
 public:
  RunStream(worker::v1::Decode::Stub& stub, const worker::v1::DecodeRequest& request,
            absl::Duration timeout = absl::InfiniteDuration());
  ~RunStream();
  RunStream(const RunStream&) = delete;

  // Reads the reservation; absent when the call was refused (see End).
  absl::optional<worker::v1::Reservation> Reserve();
  // Reads one event; absent at the end.
  absl::optional<worker::v1::DecodeEvent> Next();
  void Cancel() { context_.TryCancel(); }

  struct SampleResult {
    std::vector<int32_t> tokens;
    std::vector<worker::v1::TokenLogprobs> logprobs;
    absl::optional<worker::v1::DoneReason> reason;
  };
  // Of sample 0, and of all.
  struct Result : SampleResult {
    std::map<int, SampleResult> samples;
    // Of a prompt that the worker computes itself.
    absl::optional<worker::v1::FirstToken> first;
    absl::Status status;
  };
  // Reads to the end.
  Result End();

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<worker::v1::DecodeEvent>> reader_;
  bool finished_ = false;
};

// The prefill worker's side of one request.
class Sender {
 public:
  explicit Sender(worker::v1::Decode::Stub& stub);
  ~Sender();
  Sender(const Sender&) = delete;

  // False when the stream has ended.
  bool Send(const worker::v1::Reservation& reservation, const std::string& data);
  // Half-closes and waits for the answer.
  absl::Status End();
  // Waits for an answer that must come without the sender's doing.
  absl::Status Wait();
  void Cancel() { context_.TryCancel(); }
  // The last answer.
  const worker::v1::ReceiveResponse& response() const { return response_; }

 private:
  grpc::ClientContext context_;
  worker::v1::ReceiveResponse response_;
  std::unique_ptr<grpc::ClientReaderWriter<worker::v1::StateChunk, worker::v1::ReceiveResponse>> stream_;
  bool finished_ = false;
};

// Sends all messages; the answer.
absl::Status HandOver(worker::v1::Decode::Stub& stub, const worker::v1::Reservation& reservation,
                      const std::vector<std::string>& messages);

struct DecodeWorkerOptions {
  std::string model = "tiny-gemma2";
  int64_t memory = int64_t{1} << 30;
  DecodeEngineOptions engine;
  // By default nothing is kept.
  SessionOptions sessions = {};
  // By default no copies of states are made or kept.
  CheckpointOptions checkpoints = {};
  // Workers that live at the same time have different ones.
  int number = 0;
};

class DecodeWorker {
 public:
  explicit DecodeWorker(const DecodeWorkerOptions& options = {});
  ~DecodeWorker();

  worker::v1::Decode::Stub& stub() { return *stub_; }
  std::unique_ptr<worker::v1::Decode::Stub> NewStub();
  MemoryBudget& budget() { return budget_; }
  DrainGate& gate() { return gate_; }
  LoadReporter& load() { return load_; }
  RpcServer& server() { return server_; }
  DecodeService& service() { return service_; }
  // Value of a counter or gauge with this label, or the sum over all.
  double Metric(const std::string& name, const std::string& label_value = "") const;

 private:
  const bool keeps_sessions_;
  MemoryBudget budget_;
  Metrics metrics_;
  LoadReporter load_;
  DrainGate gate_;
  DecodeService service_;
  RpcServer server_;
  std::unique_ptr<worker::v1::Decode::Stub> stub_;
};

// Waits, for as long as the test may take.
void WaitUntil(const std::function<bool()>& condition);
// Everything this worker promised to anyone is free again.
void ExpectNothingHeld(DecodeWorker& worker);

}  // namespace baton
