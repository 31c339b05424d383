#include "prefill/prefill_role.h"

#include <algorithm>
#include <string>

#include "absl/time/time.h"
#include "common/base/bytes.h"
#include "prefill/handoff_flags.h"

namespace baton {

std::string PrefillRole::description() const {
  return "Baton prefill worker: computes prompts and hands their state to decode workers.";
}

void PrefillRole::AddFlags(CLI::App& app) {
  constexpr int kMaxChunkTokens = 65536;
  constexpr int kMaxQueue = 1000000;
  constexpr int kMaxDelayMs = 3600000;
  constexpr int kMaxSnapshotBlocks = 65536;
  app.add_option("--chunk-tokens", chunk_tokens_, "Token budget of one step, shared by all prompts being computed")
      ->check(CLI::Range(1, kMaxChunkTokens))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--max-queue", max_queue_, "Requests that may wait; more are refused")
      ->check(CLI::Range(1, kMaxQueue))
      ->type_name("N")
      ->capture_default_str();
  AddHandoffFlags(app, &handoff_);
  app.add_option_function<std::string>(
         "--prefix-cache",
         [this](const std::string& text) {
           const absl::StatusOr<int64_t> bytes = text == "off" ? 0 : ParseBytes(text);
           if (!bytes.ok()) throw CLI::ValidationError("--prefix-cache", std::string(bytes.status().message()));
           prefix_cache_bytes_ = *bytes;
         },
         "Most state memory (part of --memory) that computed beginnings of prompts may keep, such as 2GiB, while "
         "nobody needs it; \"off\": keep none (default: half of --memory)")
      ->type_name("BYTES|off");
  app.add_option(
         "--prefix-snapshot-blocks", prefix_snapshot_blocks_,
         "Models with recurrent layers: keep a snapshot for every so many blocks of 64 tokens, besides those at "
         "the ends of prompts and of common beginnings; 0: only those")
      ->check(CLI::Range(0, kMaxSnapshotBlocks))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--inject-handoff-delay-ms", inject_handoff_delay_ms_,
                 "For tests: wait before each write of a handoff")
      ->check(CLI::Range(0, kMaxDelayMs))
      ->type_name("N")
      ->capture_default_str();
}

// A decode worker or two, and their shared memory.
int64_t PrefillRole::handoff_bytes() const { return 4 * handoff_.credit_bytes; }

BatchLimits PrefillRole::batch_limits() const {
  return {.rows = chunk_tokens_, .logit_rows = PrefillEngineOptions().step_logit_rows};
}

absl::Status PrefillRole::Start(const WorkerContext& context) {
  metrics_ = std::make_unique<PrefillMetrics>(context.metrics, context.model_name, context.budget);
  PrefillEngineOptions options;
  options.step_tokens = chunk_tokens_;
  options.max_queue = max_queue_;
  options.prefix_cache.bytes =
      std::min(prefix_cache_bytes_.value_or(context.budget->total() / 2), context.budget->total());
  options.prefix_cache.snapshot_blocks = prefix_snapshot_blocks_;
  options.step_delay = absl::Milliseconds(context.flags.inject_step_delay_ms);
  handoff_.delay = absl::Milliseconds(inject_handoff_delay_ms_);
  handoff_.channel = context.channel;
  options.handoff = handoff_;
  engine_ = std::make_unique<PrefillEngine>(options, context.model, context.budget, metrics_.get(), context.load);

  PrefillLimits limits;
  limits.request = {context.model->fingerprint(), context.model->config().vocab_size, context.max_tokens};
  limits.layout = engine_->layout().get();
  limits.state_bytes = context.budget->total();
  limits.channel = context.channel;
  service_ = std::make_unique<PrefillService>(limits, engine_.get(), metrics_.get(), context.gate, context.tracing);
  engine_->Start();
  return absl::OkStatus();
}

void PrefillRole::Stop() {
  if (engine_ != nullptr) engine_->Stop();
}

}  // namespace baton
