// The gateway's metrics (docs/metrics.md): handles resolved once per model, so that nothing is looked up per token.
#pragma once

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>

#include "absl/status/status.h"
#include "common/observe/metrics.h"
#include "gateway/activity_totals.h"
#include "gateway/fleet.h"

namespace baton {

// What clients ask under names nobody serves is counted under this one.
inline constexpr char kUnknownModel[] = "unknown";

enum class Method { kGenerate, kGenerateStream, kTokenize, kDetokenize, kScore, kListModels, kCount };
const char* MethodName(Method method);

enum class Outcome {
  kStop,
  kLength,
  kCancelled,
  kTimeLimit,
  kOk,
  kInvalid,
  kNotFound,
  kUnauthenticated,
  kDenied,
  kOverloaded,
  kUnavailable,
  kDeadline,
  kDataLoss,
  kInternal,
  kCount
};
const char* OutcomeName(Outcome outcome);
// kOk for an OK status.
Outcome OutcomeOf(const absl::Status& status);

// The handles of one model. Lives as long as its GatewayMetrics. Thread-safe.
class ModelMetrics {
 public:
  ModelMetrics(Metrics* metrics, const std::string& model);

  void CountRequest(Method method, Outcome outcome, double seconds);
  void CountRetry(Stage stage) { (stage == Stage::kDecode ? reserve_retries_ : prefill_retries_).Increment(); }

  // Streams that went on elsewhere. `phase` and `reason`: literals, as in docs/metrics.md.
  void CountResume(const char* phase, const char* reason) {
    resumes_.fetch_add(1, std::memory_order_relaxed);
    Resumes(phase, reason).Increment();
  }
  // What they went on from: checkpoint, handoff or recompute.
  void CountResumed(const char* source) { Resumed(source).Increment(); }
  // A second attempt beside a late one: what became of it, or why there was none. Literals, as in docs/metrics.md.
  void CountHedge(const char* result) { Hedges(result).Increment(); }
  void CountHedgeWithheld(const char* reason) { HedgesWithheld(reason).Increment(); }
  // A worker was left alone for a while because it failed again and again.
  void CountPause(Stage stage) { (stage == Stage::kDecode ? decode_pauses_ : prefill_pauses_).Increment(); }

  // All there was so far, of requests that need workers (generating and scoring).
  ActivityTotals Totals() const;

  prometheus::Gauge& waiting;
  prometheus::Gauge& running;
  // Of requests whose work began; of scoring the context once, and the continuations.
  prometheus::Counter& admitted_prompt_tokens;
  prometheus::Counter& streamed_tokens;
  prometheus::Histogram& time_to_first_token;
  prometheus::Histogram& inter_token;
  prometheus::Histogram& queue_seconds;
  prometheus::Histogram& prompt_tokens;
  prometheus::Histogram& output_tokens;

 private:
  static constexpr size_t kMethods = static_cast<size_t>(Method::kCount);
  static constexpr size_t kOutcomes = static_cast<size_t>(Outcome::kCount);

  // Looked up each time: it is rare.
  prometheus::Counter& Resumes(const char* phase, const char* reason);
  prometheus::Counter& Resumed(const char* source);
  prometheus::Counter& Hedges(const char* result);
  prometheus::Counter& HedgesWithheld(const char* reason);

  Metrics* const metrics_;
  const std::string model_;
  prometheus::Counter& reserve_retries_;
  prometheus::Counter& prefill_retries_;
  prometheus::Counter& decode_pauses_;
  prometheus::Counter& prefill_pauses_;
  std::atomic<int64_t> resumes_{0};
  // Made when first needed: most of the combinations never occur.
  std::array<std::array<std::atomic<prometheus::Counter*>, kOutcomes>, kMethods> requests_ = {};
  std::array<std::atomic<prometheus::Histogram*>, kMethods> request_seconds_ = {};
};

// The handles of one client (docs/security.md). Thread-safe.
class ClientMetrics {
 public:
  ClientMetrics(Metrics* metrics, const std::string& client);

  void CountRequest(Outcome outcome, int64_t prompt_tokens, int64_t output_tokens);

 private:
  Metrics* const metrics_;
  const std::string client_;
  prometheus::Counter& prompt_tokens_;
  prometheus::Counter& output_tokens_;
  // Made when first needed.
  std::array<std::atomic<prometheus::Counter*>, static_cast<size_t>(Outcome::kCount)> requests_ = {};
};

// Workers by (model, stage, state).
using WorkerCounts = std::map<std::tuple<std::string, Stage, WorkerState>, int>;

class GatewayMetrics {
 public:
  // `metrics` must outlive it.
  explicit GatewayMetrics(Metrics* metrics);

  // The names come from workers, never from clients.
  ModelMetrics* ForModel(const std::string& model);
  ModelMetrics* unknown() { return unknown_; }
  // All models, "unknown" among them.
  std::map<std::string, ModelMetrics*> Models() const;
  // All workers there are; combinations not in `counts` become 0.
  void SetWorkers(const WorkerCounts& counts);

 private:
  Metrics* const metrics_;
  mutable std::mutex mutex_;
  std::map<std::string, std::unique_ptr<ModelMetrics>> models_;
  std::map<std::tuple<std::string, Stage, WorkerState>, prometheus::Gauge*> workers_;
  ModelMetrics* unknown_;
};

}  // namespace baton
