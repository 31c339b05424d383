// baton-decode: continues sequences whose state prefill workers hand over.
#include <unistd.h>

#include <algorithm>
#include <csignal>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "common/base/bytes.h"
#include "common/base/status_macros.h"
#include "common/rpc/real_range.h"
#include "common/rpc/worker_main.h"
#include "decode/decode_service.h"

namespace baton {
namespace {

CLI::Validator IsBytes() {
  return CLI::Validator([](std::string& text) { return std::string(ParseBytes(text).status().message()); }, "",
                        "IsBytes");
}

class DecodeRole final : public WorkerRole {
 public:
  worker::v1::WorkerInfo::Role role() const override { return worker::v1::WorkerInfo::DECODE; }
  std::string description() const override {
    return "Baton's decode worker: receives sequence states from prefill workers and generates their tokens, all "
           "sequences together.";
  }
  std::string default_listen() const override { return "127.0.0.1:7201"; }
  int max_run_tokens() const override { return DecodeRunTokens(engine_options_); }
  BatchLimits batch_limits() const override {
    const int prompts = std::min(engine_options_.local_prefill_chunk, kMaxPromptsInStep);
    return {.rows = engine_options_.max_batch + engine_options_.local_prefill_chunk,
            .logit_rows = engine_options_.max_batch + prompts};
  }
  int local_prefill_chunk() const override { return engine_options_.local_prefill_chunk; }

  int64_t reserve_output() const override { return engine_options_.reserve_output; }
  int checkpoint_tokens() const override { return checkpoints_.tokens; }
  int64_t checkpoint_bytes() const override { return checkpoints_.memory_bytes; }
  // Copies on their way, and memory shared with a standby or two.
  int64_t handoff_bytes() const override { return checkpoints_.tokens > 0 ? 4 * kCheckpointCreditBytes : 0; }

  void AddFlags(CLI::App& app) override {
    app.add_option("--max-batch", engine_options_.max_batch, "Most sequences in one step; more take turns")
        ->check(CLI::Range(1, 4096).description(""))
        ->type_name("N")
        ->capture_default_str();
    app.add_option(
           "--local-prefill-chunk", engine_options_.local_prefill_chunk,
           "Tokens of short prompts that one step computes here at most, without a prefill worker; fewer beside "
           "running sequences (which prompts: the gateway's --local-prefill-tokens); 0: none")
        ->check(CLI::Range(0, 512).description(""))
        ->type_name("N")
        ->capture_default_str();
    app.add_option(
           "--on-drain", on_drain_,
           "What becomes of running sequences after SIGTERM: finish (they get --grace, and what is left then is "
           "handed off) or handoff (at once)")
        ->check(CLI::IsMember({"finish", "handoff"}).description(""))
        ->type_name("finish|handoff")
        ->capture_default_str();
    app.add_option("--session-ttl", session_ttl_seconds_,
                   "How long a conversation can be continued after its turn (keep_state); 0: none is kept")
        ->check(RealRange(0.0, 365.0 * 86400).description(""))
        ->type_name("SECONDS")
        ->capture_default_str();
    app.add_option(
           "--session-memory", session_memory_,
           "State memory that kept conversations may take until others need it (default: a quarter of --memory)")
        ->check(IsBytes())
        ->type_name("BYTES");
    app.add_option(
           "--session-dir", sessions_.directory,
           "Also write kept conversations to files here, so that they outlive the worker and its memory; workers "
           "of one model may share it")
        ->type_name("DIR");
    app.add_option("--session-bytes", session_bytes_, "Most bytes of files in --session-dir")
        ->check(IsBytes())
        ->type_name("BYTES")
        ->capture_default_str();
    app.add_option(
           "--checkpoint-tokens", checkpoints_.tokens,
           "Copy each sequence's state to another decode worker every so many generated tokens, so that a request "
           "whose "
           "worker is lost goes on from there; for models whose states are small, such as RecurrentGemma's (0: never, "
           "and the tokens of a lost sequence are computed again)")
        ->check(CLI::Range(0, 1 << 20).description(""))
        ->type_name("N")
        ->capture_default_str();
    app.add_option("--checkpoint-memory", checkpoint_memory_,
                   "State memory that copies of other workers' sequences may take until others need it; 0: none are "
                   "taken (default: a quarter of --memory)")
        ->check(IsBytes())
        ->type_name("BYTES");
    app.add_option("--checkpoint-ttl", checkpoint_ttl_seconds_,
                   "How long such a copy is kept when no newer one comes: longer than --checkpoint-tokens take, and "
                   "than the gateways take to go on from it")
        ->check(RealRange(1.0, 86400.0).description(""))
        ->type_name("SECONDS")
        ->capture_default_str();
    app.add_option(
           "--reserve-output", engine_options_.reserve_output,
           "Output tokens a sequence's memory is reserved for at a time; when there is none for more, the least "
           "urgent or newest sequence waits on disk (0: all it may generate, at its start, and none ever waits)")
        ->check(CLI::Range(0, 1 << 20).description(""))
        ->type_name("N")
        ->capture_default_str();
    app.add_option("--spill-dir", engine_options_.spill_directory, "Where sequences wait on disk (--reserve-output)")
        ->check(CLI::ExistingDirectory.description(""))
        ->type_name("DIR")
        ->capture_default_str();
  }

  absl::Status Start(const WorkerContext& context) override {
    BATON_RETURN_IF_ERROR(PrepareSessions(context.budget->total()));
    BATON_RETURN_IF_ERROR(PrepareCheckpoints(context));
    engine_options_.step_delay = absl::Milliseconds(context.flags.inject_step_delay_ms);
    DecodeServiceOptions options;
    options.model_name = context.model_name;
    options.boot_id = context.boot_id;
    options.max_tokens = context.max_tokens;
    options.engine = engine_options_;
    options.sessions = sessions_;
    options.checkpoints = checkpoints_;
    options.channel = context.channel;
    options.tracing = context.tracing;
    service_ = std::make_unique<DecodeService>(context.model, options, context.budget, context.metrics, context.load,
                                               context.gate);
    return absl::OkStatus();
  }

  std::vector<grpc::Service*> services() override { return {service_.get()}; }

  void OnListening(const std::string& endpoint) override { service_->SetEndpoint(endpoint); }

  void OnDraining() override {
    if (on_drain_ == "handoff") service_->Leave();
  }
  absl::Duration OnGraceOver() override {
    service_->Leave();
    return kLeavingTime;
  }
  void OnDrained() override {
    if (service_->AwaitLeft(kFetchTime)) return;
    Log(Severity::kWarning, "states_not_fetched").With("advice", "their requests are computed anew elsewhere");
  }
  void Stop() override { service_.reset(); }

 private:
  absl::Status PrepareSessions(int64_t memory) {
    sessions_.ttl = absl::Seconds(session_ttl_seconds_);
    sessions_.memory_bytes = memory / 4;
    if (!session_memory_.empty()) sessions_.memory_bytes = *ParseBytes(session_memory_);
    sessions_.directory_bytes = *ParseBytes(session_bytes_);
    if (sessions_.directory.empty()) return absl::OkStatus();
    // A file that may grow no further is an error to report, not a reason to die.
    std::signal(SIGXFSZ, SIG_IGN);
    std::error_code error;
    std::filesystem::create_directories(sessions_.directory, error);
    if (!error && access(sessions_.directory.c_str(), R_OK | W_OK | X_OK) == 0) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--session-dir ", sessions_.directory, " is not a directory that this user can write to"));
  }

  absl::Status PrepareCheckpoints(const WorkerContext& context) {
    checkpoints_.ttl = absl::Seconds(checkpoint_ttl_seconds_);
    checkpoints_.memory_bytes = context.budget->total() / 4;
    if (!checkpoint_memory_.empty()) checkpoints_.memory_bytes = *ParseBytes(checkpoint_memory_);
    if (checkpoints_.tokens == 0) return absl::OkStatus();
    const int64_t bytes = context.model->MakeStateLayout(max_run_tokens())->BytesFor(context.max_tokens);
    if (bytes <= kMostCheckpointBytes) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("--checkpoint-tokens ", checkpoints_.tokens, ": the state of a sequence of ", context.max_tokens,
                     " tokens of this model takes ", FormatBytes(bytes), ", and copies are for states of at most ",
                     FormatBytes(kMostCheckpointBytes),
                     ", as those of recurrent models; leave the flag out (lost sequences are "
                     "computed again, with what prefill workers have cached), or give a smaller --max-tokens"));
  }

  // A copy of a recurrent model's state takes tens of megabytes at most, however long the sequence is; one with global
  // attention grows, and sending all of it again and again costs more than computing it once in a while.
  static constexpr int64_t kMostCheckpointBytes = int64_t{64} << 20;
  // For the step under way to end, and the callers to be told.
  static constexpr absl::Duration kLeavingTime = absl::Seconds(2);
  // For gateways to find another decode worker and have the states fetched.
  static constexpr absl::Duration kFetchTime = absl::Seconds(10);

  std::string on_drain_ = "finish";
  double session_ttl_seconds_ = 600;
  std::string session_memory_;
  std::string session_bytes_ = "8GiB";
  SessionOptions sessions_;
  CheckpointOptions checkpoints_;
  std::string checkpoint_memory_;
  double checkpoint_ttl_seconds_ = 300;
  DecodeEngineOptions engine_options_;
  std::unique_ptr<DecodeService> service_;
};

}  // namespace
}  // namespace baton

int main(int argc, char** argv) {
  baton::DecodeRole role;
  return baton::RunWorkerMain(argc, argv, &role);
}
