// The prefill worker's engine: a bounded queue and the one thread that runs the model. Tests:
// tests/prefill/prefill_service_test.cc and prefill_endings_test.cc, through the service.
//
// The thread repeats: take new calls, end those that are over, compute one step that the scheduler planned; with
// nothing to do it sleeps. State leaves for the decode workers during the step, layer by layer. The thread never waits
// for the network, and a call that ends, for whatever reason, has all its memory freed before the next step (but for
// what the network is reading at that moment).
//
//   PrefillEngine engine(options, model, &budget, &metrics, &load);
//   engine.Start();
//   BATON_RETURN_IF_ERROR(engine.Submit(call));     // from any thread
//   call->ended = true;  engine.Wake();             // the client went away
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/model/model.h"
#include "common/rpc/worker_service.h"
#include "common/state/memory_budget.h"
#include "prefill/doorbell.h"
#include "prefill/prefill_job.h"
#include "prefill/prefill_metrics.h"
#include "prefill/prefix_cache.h"
#include "prefill/prompt_scheduler.h"

namespace baton {

struct PrefillEngineOptions {
  // Token budget of one step, and the longest run.
  int64_t step_tokens = 512;
  // Rows of logits in one step.
  int64_t step_logit_rows = 64;
  // Calls that wait for their first token of compute.
  int64_t max_queue = 256;
  PrefixCacheOptions prefix_cache;
  HandoffOptions handoff;
  // Fault injection.
  absl::Duration step_delay;
};

class PrefillEngine {
 public:
  // All pointers must outlive it.
  PrefillEngine(const PrefillEngineOptions& options, Model* model, MemoryBudget* budget, PrefillMetrics* metrics,
                LoadReporter* load);
  ~PrefillEngine();
  PrefillEngine(const PrefillEngine&) = delete;

  void Start();
  // Ends what is left with UNAVAILABLE and joins the thread. Idempotent.
  void Stop();

  // RESOURCE_EXHAUSTED (QUEUE_FULL, with when to try again), or UNAVAILABLE after Stop. When OK, the engine finishes
  // call->events.
  absl::Status Submit(std::shared_ptr<PrefillCall> call);
  // After call->ended was set.
  void Wake() { doorbell_->Ring(); }

  const std::shared_ptr<const StateLayout>& layout() const { return context_.layout; }
  MemoryBudget& budget() const { return *context_.budget; }

 private:
  using Jobs = std::map<uint64_t, std::unique_ptr<PrefillJob>>;

  void Loop();
  // False when the engine is to stop.
  bool TakeArrivals();
  void EndFinishedJobs();
  void End(Jobs::iterator job, const PrefillEnd& end);
  // Computes one step. False when there was nothing to compute.
  bool Step();
  bool StartJob(uint64_t id);
  void Compute(const std::vector<PromptChunk>& plan);
  void PublishLoad();
  void PublishQueue() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Duration RetryDelay() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const PrefillEngineOptions options_;
  LoadReporter* const load_;
  const std::shared_ptr<Doorbell> doorbell_ = std::make_shared<Doorbell>();
  std::thread thread_;

  // The engine thread's own.
  PrefixCache cache_;
  PrefillJobContext context_;
  PromptScheduler scheduler_;
  Jobs jobs_;
  uint64_t next_id_ = 1;
  std::vector<float> logits_;  // [step_logit_rows, vocab_size], grown when needed

  absl::Mutex mutex_;
  std::vector<std::shared_ptr<PrefillCall>> arrivals_ ABSL_GUARDED_BY(mutex_);
  int64_t arrival_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // Of scheduler_, as last published; arrivals_ come on top.
  int64_t scheduled_waiting_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t scheduled_tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  // Smoothed over steps; 0: no step yet.
  double tokens_per_second_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace baton
