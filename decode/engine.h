// The decode worker's engine: one thread that advances all sequences by one token per step.
//
// Continuous batching: before every step new sequences join and ended ones leave. A step takes up to max_batch of them;
// when there are more, those that have waited longest go first, and priority counts as extra steps of waiting, so that
// nobody starves. Which sequences share a step changes no token (see Model).
//
// Each sample of a request is a sequence of its own; what a step makes of them goes to their call in one event. While a
// reader is behind, its tokens are gathered into larger chunks, and beyond max_unread_tokens for each sample its
// sequences are ended rather than the others kept waiting.
//
//   DecodeEngine engine(&model, options, &metrics, &load);
//   engine.Start();
//   engine.Add(call, std::move(samples));                // any thread
//   engine.Stop();                                        // ends what is left with UNAVAILABLE
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "common/model/model.h"
#include "common/rpc/worker_service.h"
#include "common/sampling/sampler.h"
#include "common/state/sequence_state.h"
#include "decode/decode_call.h"
#include "decode/decode_metrics.h"
#include "decode/sessions.h"

namespace baton {

struct DecodeEngineOptions {
  // Sequences in one step.
  int max_batch = 64;
  // Tokens of one sample that its reader may lag behind, beyond what is queued for writing.
  int max_unread_tokens = 1024;
  // Fault injection: sleep in every step.
  absl::Duration step_delay = absl::ZeroDuration();
};

// A sample as it joins: it continues with `first_token`, the token at state.position().
struct SampleStart {
  int sample = 0;
  SequenceState state;
  int32_t first_token = 0;
};

class DecodeEngine {
 public:
  // Everything pointed at must outlive it; the model is used by this engine alone. `sessions`: where sequences go that
  // are to be kept; none are when it is null.
  DecodeEngine(Model* model, const DecodeEngineOptions& options, DecodeMetrics* metrics, LoadReporter* load,
               Sessions* sessions = nullptr);
  ~DecodeEngine();
  DecodeEngine(const DecodeEngine&) = delete;

  void Start();
  void Stop();

  // The samples that go on, at least one, each once; their positions are the number of tokens in the request. Their
  // first tokens must not end them, and the request must have been checked (CheckRequest).
  void Add(std::shared_ptr<DecodeCall> call, std::vector<SampleStart> samples);

 private:
  struct Request;
  struct Sequence;

  void Loop();
  // Waits until there is something to do. False: stop.
  bool AdmitNew();
  bool HasWork() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return stopping_ || !arrivals_.empty() || !sequences_.empty();
  }
  // Removes sequences that have ended or that nobody wants any more, and their memory.
  void DropEnded();
  // Fills batch_ with the sequences of the next step.
  void SelectBatch();
  void Step();
  // Samples the next token of one sequence from its logits and tells its call.
  void Continue(Sequence& sequence, absl::Span<const float> logits);
  // Keeps the state of a complete sequence that is to be kept.
  absl::optional<absl::Time> Keep(Sequence& sequence, worker::v1::DoneReason reason);
  // The sequence is complete.
  void End(Sequence& sequence, worker::v1::DoneReason reason);
  // Tells the call what its samples did in this step, unless it is behind.
  void Flush(Request& request);
  void ReportRunning();

  Model* const model_;
  const DecodeEngineOptions options_;
  DecodeMetrics* const metrics_;
  LoadReporter* const load_;
  Sessions* const sessions_;

  absl::Mutex mutex_;
  std::vector<std::unique_ptr<Sequence>> arrivals_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;

  // The engine thread's own.
  std::vector<std::unique_ptr<Sequence>> sequences_;
  std::vector<Sequence*> batch_;
  std::vector<SequenceRun> runs_;
  std::vector<float> logits_;  // [max_batch, vocab_size], grown as needed
  Sampler sampler_;
  int64_t step_ = 0;
  int64_t turns_ = 0;
  std::thread thread_;
};

}  // namespace baton
