// Both workers of a model in one process, each behind its own server on loopback, for benchmarks that drive them as a
// gateway would.
//
//   WorkerPair pair(&prefill_model, &decode_model, handoff, /*chunk_tokens=*/512, memory);
//   BATON_RETURN_IF_ERROR(pair.Start());
//   ... pair.decode().Run(...), pair.prefill().Run(...)
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/model/model.h"
#include "common/observe/metrics.h"
#include "common/rpc/channel.h"
#include "common/rpc/drain_gate.h"
#include "common/rpc/server.h"
#include "common/rpc/worker_service.h"
#include "common/state/memory_budget.h"
#include "decode/decode_service.h"
#include "prefill/prefill_engine.h"
#include "prefill/prefill_metrics.h"
#include "prefill/prefill_service.h"

namespace baton {

class WorkerPair {
 public:
  WorkerPair(Model* prefill_model, Model* decode_model, const HandoffOptions& handoff, int chunk_tokens, int64_t memory)
      : model_(prefill_model),
        prefill_budget_(memory),
        decode_budget_(memory),
        prefill_load_(&prefill_budget_),
        decode_load_(&decode_budget_),
        prefill_engine_(EngineOptions(handoff, chunk_tokens), prefill_model, &prefill_budget_, &prefill_metrics_,
                        &prefill_load_),
        prefill_service_(Limits(), &prefill_engine_, &prefill_metrics_, &prefill_gate_),
        decode_service_(decode_model, DecodeOptions(*decode_model), &decode_budget_, &decode_all_metrics_,
                        &decode_load_, &decode_gate_),
        prefill_server_({.listen = "127.0.0.1:0", .max_receive_bytes = 64 << 20}),
        decode_server_({.listen = "127.0.0.1:0", .max_receive_bytes = 64 << 20}) {}
  ~WorkerPair() {
    prefill_server_.Stop(absl::ZeroDuration());
    decode_server_.Stop(absl::ZeroDuration());
    prefill_engine_.Stop();
    decode_service_.Stop();
  }

  absl::Status Start() {
    prefill_server_.AddService(&prefill_service_);
    decode_server_.AddService(&decode_service_);
    BATON_RETURN_IF_ERROR(prefill_server_.Start());
    BATON_RETURN_IF_ERROR(decode_server_.Start());
    prefill_engine_.Start();
    decode_service_.SetEndpoint(decode_server_.address());
    prefill_ = worker::v1::Prefill::NewStub(NewChannel(prefill_server_.address()));
    decode_ = worker::v1::Decode::NewStub(NewChannel(decode_server_.address()));
    return absl::OkStatus();
  }

  worker::v1::Decode::Stub& decode() { return *decode_; }
  worker::v1::Prefill::Stub& prefill() { return *prefill_; }
  std::string decode_endpoint() const { return decode_server_.address(); }
  MemoryBudget& budget() { return prefill_budget_; }

 private:
  static PrefillEngineOptions EngineOptions(const HandoffOptions& handoff, int chunk_tokens) {
    PrefillEngineOptions options;
    options.step_tokens = chunk_tokens;
    options.handoff = handoff;
    return options;
  }
  PrefillLimits Limits() const {
    PrefillLimits limits;
    limits.request = {model_->fingerprint(), model_->config().vocab_size, int64_t{1} << 20};
    limits.layout = prefill_engine_.layout().get();
    limits.state_bytes = prefill_budget_.total();
    return limits;
  }
  static DecodeServiceOptions DecodeOptions(const Model& model) {
    DecodeServiceOptions options;
    options.model_name = "bench";
    options.boot_id = NewBootId();
    options.max_tokens = int64_t{1} << 20;
    return options;
  }

  Model* const model_;
  MemoryBudget prefill_budget_;
  MemoryBudget decode_budget_;
  Metrics prefill_all_metrics_{"prefill"};
  Metrics decode_all_metrics_{"decode"};
  PrefillMetrics prefill_metrics_{&prefill_all_metrics_, "bench", &prefill_budget_};
  LoadReporter prefill_load_;
  LoadReporter decode_load_;
  DrainGate prefill_gate_;
  DrainGate decode_gate_;
  PrefillEngine prefill_engine_;
  PrefillService prefill_service_;
  DecodeService decode_service_;
  RpcServer prefill_server_;
  RpcServer decode_server_;
  std::unique_ptr<worker::v1::Prefill::Stub> prefill_;
  std::unique_ptr<worker::v1::Decode::Stub> decode_;
};

}  // namespace baton
