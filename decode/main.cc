// baton-decode: continues sequences whose state prefill workers hand over.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "common/observe/log.h"
#include "common/rpc/worker_main.h"
#include "decode/decode_service.h"

namespace baton {
namespace {

class DecodeRole final : public WorkerRole {
 public:
  worker::v1::WorkerInfo::Role role() const override { return worker::v1::WorkerInfo::DECODE; }
  std::string description() const override {
    return "Baton's decode worker: receives sequence states from prefill workers and generates their tokens, all "
           "sequences together.";
  }
  std::string default_listen() const override { return "127.0.0.1:7201"; }
  int max_run_tokens() const override { return kDecodeRunTokens; }
  BatchLimits batch_limits() const override {
    return {.rows = engine_options_.max_batch, .logit_rows = engine_options_.max_batch};
  }

  void AddFlags(CLI::App& app) override {
    app.add_option("--advertise", advertise_, "Where prefill workers reach this worker (default: where it listens)")
        ->check(IsHostPort())
        ->type_name("HOST:PORT");
    app.add_option("--max-batch", engine_options_.max_batch, "Most sequences in one step; more take turns")
        ->check(CLI::Range(1, 4096).description(""))
        ->type_name("N")
        ->capture_default_str();
  }

  absl::Status Start(const WorkerContext& context) override {
    engine_options_.step_delay = absl::Milliseconds(context.flags.inject_step_delay_ms);
    DecodeServiceOptions options;
    options.model_name = context.model_name;
    options.boot_id = context.boot_id;
    options.max_tokens = context.max_tokens;
    options.engine = engine_options_;
    service_ = std::make_unique<DecodeService>(context.model, options, context.budget, context.metrics, context.load,
                                               context.gate);
    return absl::OkStatus();
  }

  std::vector<grpc::Service*> services() override { return {service_.get()}; }

  void OnListening(const std::string& address) override {
    if (advertise_.empty() && (absl::StartsWith(address, "0.0.0.0:") || absl::StartsWith(address, "[::]:"))) {
      Log(Severity::kWarning, "wildcard_endpoint")
          .With("listen", address)
          .With("advice", "give --advertise HOST:PORT, or prefill workers on other machines cannot reach this one");
    }
    service_->SetEndpoint(advertise_.empty() ? address : advertise_);
  }

  void Stop() override { service_.reset(); }

 private:
  std::string advertise_;
  DecodeEngineOptions engine_options_;
  std::unique_ptr<DecodeService> service_;
};

}  // namespace
}  // namespace baton

int main(int argc, char** argv) {
  baton::DecodeRole role;
  return baton::RunWorkerMain(argc, argv, &role);
}
