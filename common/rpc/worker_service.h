// baton.worker.v1.Worker: what a gateway asks any worker. Who are you, give me your tokenizer, how busy are you, what
// do you remember of this request.
//
//   LoadReporter load(&budget);                       // the engine calls load.SetRunning(...) and so on
//   WorkerService service(MakeWorkerInfo(...), model.tokenizer(), &load);
//   server.AddService(&service);
//   ...
//   load.SetDraining();                               // watchers hear of it within a tenth of a second
//   service.EndWatches();                             // so that nothing keeps the server from stopping at once
//   server.Stop(grace);
#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/model/model.h"
#include "common/rpc/event_writer.h"
#include "common/rpc/prefix_summary.h"
#include "common/rpc/tracing.h"
#include "common/state/memory_budget.h"
#include "common/state/state_layout.h"

namespace baton {

// A worker's load as its engine last said it. Setters are cheap (one atomic store) and thread-safe.
class LoadReporter {
 public:
  // `budget` must outlive it.
  explicit LoadReporter(const MemoryBudget* budget) : budget_(budget) {}
  LoadReporter(const LoadReporter&) = delete;

  void SetRunning(int64_t sequences) { running_.store(sequences, std::memory_order_relaxed); }
  // Requests that wait for work to begin. Decode: reserved, state not complete yet.
  void SetQueued(int64_t requests) { queued_.store(requests, std::memory_order_relaxed); }
  // Prompt tokens accepted and not yet computed.
  void SetQueuedTokens(int64_t tokens) { queued_tokens_.store(tokens, std::memory_order_relaxed); }
  // Tokens done (prefill: computed, decode: sampled): gives tokens_per_second.
  void AddTokens(int64_t tokens) { tokens_done_.fetch_add(tokens, std::memory_order_relaxed); }
  // A step of the engine is done.
  void AddStep(int64_t sequences) {
    steps_done_.fetch_add(1, std::memory_order_relaxed);
    step_sequences_.fetch_add(sequences, std::memory_order_relaxed);
  }
  // Prompt tokens: computed, or taken from what was cached or kept.
  void AddComputedPrompt(int64_t tokens) { prompt_tokens_computed_.fetch_add(tokens, std::memory_order_relaxed); }
  void AddCachedPrompt(int64_t tokens) { prompt_tokens_cached_.fetch_add(tokens, std::memory_order_relaxed); }
  // Beginnings of prompts that are cached.
  PrefixSummary& prefixes() { return prefixes_; }
  const PrefixSummary& prefixes() const { return prefixes_; }
  // State memory that is in use and is given up for whoever needs it, not reported as used: conversations that are
  // kept, and copies kept for other decode workers.
  void SetKeptSessions(int64_t count, int64_t bytes) { kept_sessions_.Set(count, bytes); }
  void SetCheckpoints(int64_t count, int64_t bytes) { checkpoints_.Set(count, bytes); }
  void SetDraining() { draining_.store(true, std::memory_order_relaxed); }

  // All but tokens_per_second, which the service works out from tokens_done, and prefixes, which differ by watcher.
  worker::v1::Load Snapshot() const;
  int64_t tokens_done() const { return tokens_done_.load(std::memory_order_relaxed); }

 private:
  struct Kept {
    void Set(int64_t new_count, int64_t new_bytes) {
      count.store(new_count, std::memory_order_relaxed);
      bytes.store(new_bytes, std::memory_order_relaxed);
    }
    std::atomic<int64_t> count{0};
    std::atomic<int64_t> bytes{0};
  };

  const MemoryBudget* const budget_;
  std::atomic<int64_t> running_{0};
  std::atomic<int64_t> queued_{0};
  std::atomic<int64_t> queued_tokens_{0};
  std::atomic<int64_t> tokens_done_{0};
  std::atomic<int64_t> steps_done_{0};
  std::atomic<int64_t> step_sequences_{0};
  std::atomic<int64_t> prompt_tokens_computed_{0};
  std::atomic<int64_t> prompt_tokens_cached_{0};
  Kept kept_sessions_;
  Kept checkpoints_;
  std::atomic<bool> draining_{false};
  PrefixSummary prefixes_;
};

struct WorkerIdentity {
  worker::v1::WorkerInfo::Role role = worker::v1::WorkerInfo::ROLE_UNSPECIFIED;
  std::string boot_id;
  std::string model_name;
  // Prompt plus output.
  int64_t max_tokens = 0;
  int64_t state_bytes_total = 0;
  // Output tokens that a request's memory is reserved for; 0: all.
  int64_t reserve_output = 0;
  // Prompt tokens that a decode worker computes in one step; 0: none.
  int local_prefill_chunk = 0;
  // As WorkerInfo.
  int checkpoint_tokens = 0;
  int64_t checkpoint_bytes = 0;
};

// `layout`: of the states this worker makes.
worker::v1::WorkerInfo MakeWorkerInfo(const WorkerIdentity& identity, const Model& model, const StateLayout& layout);

// The bytes of a state as a function of its length: see the message. Never more than a page per KV layer below
// layout.BytesFor(n).
worker::v1::StateBytes MakeStateBytes(const StateLayout& layout);

// XXH3-128, 32 hex digits.
std::string TokenizerHash(absl::string_view tokenizer);

class WorkerService final : public worker::v1::Worker::CallbackService {
 public:
  // `load` and `tokenizer`'s bytes must outlive it. `info.uptime_seconds` is filled in at each call.
  // `tracing` may be null.
  WorkerService(worker::v1::WorkerInfo info, absl::string_view tokenizer, const LoadReporter* load,
                std::shared_ptr<const Tracing> tracing = nullptr);
  ~WorkerService() override;
  WorkerService(const WorkerService&) = delete;

  // host:port where other workers reach this one; not told before it is known.
  void SetEndpoint(const std::string& endpoint);
  // Ends all WatchLoad streams, after a last update, and refuses new ones.
  void EndWatches();

  grpc::ServerUnaryReactor* GetInfo(grpc::CallbackServerContext* context, const worker::v1::GetInfoRequest* request,
                                    worker::v1::WorkerInfo* response) override;
  grpc::ServerWriteReactor<worker::v1::TokenizerPiece>* GetTokenizer(
      grpc::CallbackServerContext* context, const worker::v1::GetTokenizerRequest* request) override;
  grpc::ServerWriteReactor<worker::v1::Load>* WatchLoad(grpc::CallbackServerContext* context,
                                                        const worker::v1::WatchLoadRequest* request) override;
  grpc::ServerUnaryReactor* GetSpans(grpc::CallbackServerContext* context, const worker::v1::GetSpansRequest* request,
                                     worker::v1::GetSpansResponse* response) override;

 private:
  struct Watcher {
    std::shared_ptr<EventWriter<worker::v1::Load>::Handle> handle;
    uint64_t told_prefixes = 0;  // version
  };

  // Drops what the watcher is too slow to read; prefixes it did not get come with a later report.
  void Tell(Watcher& watcher, worker::v1::Load load) const;
  // Pushes the load to all watchers when it changed. Sleeps while there are none.
  void WatchLoop();
  // The load with tokens_per_second over the last second. Watch thread only.
  worker::v1::Load CurrentLoad(absl::Time now);
  bool WakeWatcher() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || !watchers_.empty(); }
  bool Stopping() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_; }

  const absl::string_view tokenizer_;
  const LoadReporter* const load_;
  const std::shared_ptr<const Tracing> tracing_;
  const absl::Time started_;

  absl::Mutex mutex_;
  worker::v1::WorkerInfo info_ ABSL_GUARDED_BY(mutex_);
  std::vector<Watcher> watchers_ ABSL_GUARDED_BY(mutex_);
  bool watches_ended_ ABSL_GUARDED_BY(mutex_) = false;
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  // (when, tokens done by then), oldest first; watch thread only.
  std::deque<std::pair<absl::Time, int64_t>> token_counts_;
  std::thread watch_thread_;
};

}  // namespace baton
