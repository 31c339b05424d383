// A prefill worker in this process, behind a real server on a loopback port, and a client for it.
#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/types/optional.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/observe/metrics.h"
#include "common/rpc/channel.h"
#include "common/rpc/drain_gate.h"
#include "common/rpc/server.h"
#include "common/rpc/status_mapping.h"
#include "common/rpc/worker_service.h"
#include "prefill/prefill_engine.h"
#include "prefill/prefill_metrics.h"
#include "prefill/prefill_service.h"
#include "tests/common/rpc/fake_decode.h"
#include "tests/metric_sum.h"
#include "tests/prefill/test_models.h"

namespace baton {

// All that one Prefill.Run said.
struct PrefillResult {
  grpc::Status status;
  absl::optional<worker::v1::FirstToken> first_token;
  absl::optional<worker::v1::PrefillDone> done;
  // Of all PromptScores, in order; checked to be without gaps.
  std::vector<int32_t> scored_ids;
  std::vector<worker::v1::TokenLogprobs> scores;
  int first_scored = -1;
  bool in_order = true;

  absl::Status absl_status() const { return FromGrpcStatus(status); }
  std::string reason() const { return ErrorReason(absl_status()); }

  void Take(worker::v1::PrefillEvent event) {
    switch (event.event_case()) {
      case worker::v1::PrefillEvent::kScores:
        if (first_scored < 0) first_scored = event.scores().first();
        in_order &= event.scores().first() == first_scored + static_cast<int>(scores.size()) && !first_token && !done &&
                    event.scores().ids_size() == event.scores().logprobs_size();
        scored_ids.insert(scored_ids.end(), event.scores().ids().begin(), event.scores().ids().end());
        scores.insert(scores.end(), event.scores().logprobs().begin(), event.scores().logprobs().end());
        break;
      case worker::v1::PrefillEvent::kFirstToken:
        in_order &= !first_token && !done;
        first_token = event.first_token();
        break;
      case worker::v1::PrefillEvent::kDone:
        in_order &= !done;
        done = event.done();
        break;
      default:
        in_order = false;
    }
  }
};

// One Prefill.Run under way.
class PrefillStream {
 public:
  PrefillStream(worker::v1::Prefill::Stub* stub, const worker::v1::PrefillRequest& request)
      : reader_(stub->Run(&context_, request)) {}

  // Reads until the first token has come. False: the call ended before.
  bool ReadFirstToken() {
    worker::v1::PrefillEvent event;
    while (!result_.first_token && reader_->Read(&event)) result_.Take(std::move(event));
    return result_.first_token.has_value();
  }
  PrefillResult ReadAll() {
    worker::v1::PrefillEvent event;
    while (reader_->Read(&event)) result_.Take(std::move(event));
    result_.status = reader_->Finish();
    return result_;
  }
  void Cancel() { context_.TryCancel(); }
  const PrefillResult& so_far() const { return result_; }

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<worker::v1::PrefillEvent>> reader_;
  PrefillResult result_;
};

struct TestWorkerOptions {
  PrefillEngineOptions engine;
  int64_t memory = int64_t{256} << 20;
};

class TestPrefillWorker {
 public:
  TestPrefillWorker(Model* model, const TestWorkerOptions& options)
      : model_(model),
        budget_(options.memory),
        load_(&budget_),
        engine_(options.engine, model, &budget_, &prefill_metrics_, &load_),
        service_(Limits(), &engine_, &prefill_metrics_, &gate_),
        server_(RpcServerOptions{"127.0.0.1:0", 64 << 20}) {
    server_.AddService(&service_);
    engine_.Start();
    BATON_CHECK(server_.Start().ok());
    server_.SetServing(true);
    stub_ = worker::v1::Prefill::NewStub(NewChannel(server_.address()));
  }
  ~TestPrefillWorker() {
    server_.Stop(absl::ZeroDuration());
    engine_.Stop();
  }

  // A request for this model: greedy, `new_tokens` to generate; with more than one, `handoff` must be added.
  worker::v1::PrefillRequest Request(const std::vector<int32_t>& tokens, int new_tokens = 1) const {
    worker::v1::PrefillRequest request;
    request.set_request_id("test");
    request.set_fingerprint(model_->fingerprint().ToBytes());
    request.mutable_tokens()->Add(tokens.begin(), tokens.end());
    request.mutable_sampling()->set_top_p(1);
    request.mutable_sampling()->set_typical_p(1);
    request.mutable_sampling()->set_repetition_penalty(1);
    request.mutable_stopping()->set_max_new_tokens(new_tokens);
    return request;
  }
  worker::v1::PrefillRequest RequestTo(const std::string& endpoint, uint64_t reservation,
                                       const std::vector<int32_t>& tokens, int new_tokens = 10) const {
    worker::v1::PrefillRequest request = Request(tokens, new_tokens);
    request.mutable_handoff()->set_endpoint(endpoint);
    request.mutable_handoff()->set_boot_id("boot");
    request.mutable_handoff()->set_reservation_id(reservation);
    request.mutable_handoff()->set_generation(3);
    return request;
  }

  std::unique_ptr<PrefillStream> Start(const worker::v1::PrefillRequest& request) {
    return std::make_unique<PrefillStream>(stub_.get(), request);
  }
  PrefillResult Run(const worker::v1::PrefillRequest& request) { return Start(request)->ReadAll(); }

  // Everything given back: no request, no memory.
  bool BecomesIdle() {
    return Eventually([&] {
      const worker::v1::Load load = load_.Snapshot();
      return budget_.used() == 0 && load.running() == 0 && load.queued() == 0 && load.queued_tokens() == 0 &&
             gate_.inside() == 0;
    });
  }
  bool WaitForLoad(int64_t running, int64_t queued) {
    return Eventually([&] { return load_.Snapshot().running() == running && load_.Snapshot().queued() == queued; });
  }
  // Tokens computed since the start.
  int64_t tokens_done() const { return load_.tokens_done(); }
  double MetricSum(const std::string& name, const std::string& label = "", const std::string& value = "") const {
    return baton::MetricSum(metrics_, name, label, value);
  }

  MemoryBudget& budget() { return budget_; }
  PrefillEngine& engine() { return engine_; }
  DrainGate& gate() { return gate_; }
  LoadReporter& load() { return load_; }
  worker::v1::Prefill::Stub* stub() { return stub_.get(); }

 private:
  PrefillLimits Limits() const {
    PrefillLimits limits;
    limits.request = {model_->fingerprint(), model_->config().vocab_size, model_->config().max_tokens};
    limits.layout = engine_.layout().get();
    limits.state_bytes = budget_.total();
    return limits;
  }

  Model* const model_;
  MemoryBudget budget_;
  Metrics metrics_{"prefill"};
  PrefillMetrics prefill_metrics_{&metrics_, "tiny", &budget_};
  LoadReporter load_;
  DrainGate gate_;
  PrefillEngine engine_;
  PrefillService service_;
  RpcServer server_;
  std::unique_ptr<worker::v1::Prefill::Stub> stub_;
};

}  // namespace baton
