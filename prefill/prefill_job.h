// One prompt on its way through the prefill worker: waiting, computed chunk by chunk, handed off, ended. The engine
// thread owns it and alone touches it; what gRPC threads share with it is in PrefillCall and HandoffSender.
//
//   PrefillJob job(id, call, &context);
//   if (!job.Start()) ...                    // no memory now
//   runs.push_back(job.RunFor(chunk));
//   model.Forward(..., [&](int layer) { job.LayerDone(layer, chunk); });     // if job.handing_off()
//   job.TakeLogits(chunk, rows);
//   if (absl::optional<PrefillEnd> end = job.Ended()) job.Finish(*end);
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "absl/types/span.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/model/model.h"
#include "common/observe/tracer.h"
#include "common/rpc/decode_peers.h"
#include "common/rpc/event_writer.h"
#include "common/rpc/handoff_sender.h"
#include "common/sampling/sampler.h"
#include "common/state/memory_budget.h"
#include "common/state/sequence_state.h"
#include "common/state/state_codec.h"
#include "prefill/handoff_failure.h"
#include "prefill/prefill_metrics.h"
#include "prefill/prefill_prompt.h"
#include "prefill/prefix_cache.h"
#include "prefill/prompt_scheduler.h"

namespace baton {

// What the service and the engine share of one Prefill.Run call.
struct PrefillCall {
  PrefillPrompt prompt;
  std::shared_ptr<EventWriter<worker::v1::PrefillEvent>::Handle> events;
  // Fetched from a session: the state of the prompt's first tokens, in memory for all of it. The job takes it.
  absl::optional<SequenceState> kept_state;
  absl::Time accepted;
  // Of the call, and of its wait for the engine.
  Span span;
  Span queue_span;
  std::chrono::system_clock::time_point deadline = std::chrono::system_clock::time_point::max();
  // The stream is over: the client went away, or it was answered.
  std::atomic<bool> ended{false};
};

// How state leaves.
struct HandoffOptions {
  HandoffTransport transport = HandoffTransport::kAuto;
  KvEncoding encoding = KvEncoding::kExact;
  // State on its way to one decode worker, of all handoffs to it together.
  int64_t credit_bytes = int64_t{32} << 20;
  // How decode workers are connected to.
  ChannelOptions channel;
  // Fault injection: wait this long before each write.
  absl::Duration delay;
};

// What all jobs of an engine use.
struct PrefillJobContext {
  explicit PrefillJobContext(const HandoffOptions& options)
      : handoff(options), peers(options.credit_bytes, options.channel) {}

  const HandoffOptions handoff;
  Model* model = nullptr;
  std::shared_ptr<const StateLayout> layout;
  MemoryBudget* budget = nullptr;
  PrefillMetrics* metrics = nullptr;
  PrefixCache* cache = nullptr;
  Sampler sampler;
  DecodePeers peers;
  // Wakes the engine, from any thread, also when the engine is gone.
  std::function<void()> wake;
};

// How a call is to end.
struct PrefillEnd {
  absl::Status status;
  // There was a handoff and it did not complete.
  absl::optional<HandoffFailureKind> handoff_failure;
};

class PrefillJob {
 public:
  // `context` must outlive it.
  PrefillJob(uint64_t id, std::shared_ptr<PrefillCall> call, PrefillJobContext* context);
  PrefillJob(const PrefillJob&) = delete;

  PromptEntry MakeEntry(double arrival_seconds) const;

  // Reserves the state, which goes on from what is cached of the prompt, and opens the handoff. RESOURCE_EXHAUSTED when
  // there is no memory, even without the cache.
  absl::Status Start();
  // Once started: tokens that were cached, and positions at which the cache wants to see the state.
  int64_t cached_tokens() const { return cached_tokens_; }
  const std::vector<int64_t>& cuts() const { return cuts_; }
  bool started() const { return started_at_ != absl::InfiniteFuture(); }
  bool holds_state() const { return state_ != nullptr; }

  // The chunk as a run of a forward call.
  SequenceRun RunFor(const PromptChunk& chunk);
  bool handing_off() const { return sender_ != nullptr; }
  // During that call: the layer has seen all of the chunk. What is final of it leaves.
  void LayerDone(int layer, const PromptChunk& chunk);
  // After that call. `logits`: [chunk.logit_rows, vocab_size]. After the last chunk, the commit leaves too.
  void TakeLogits(const PromptChunk& chunk, absl::Span<const float> logits);

  // How the call is to end, once that is known.
  absl::optional<PrefillEnd> Ended() const;
  // Answers the call, frees everything, counts and logs the request. Also to end it early (`status` not OK).
  void Finish(const PrefillEnd& end);
  // Ends it with `status` at the next look.
  void Fail(absl::Status status) { failure_ = std::move(status); }
  // An early end with this status.
  PrefillEnd Abandon(absl::Status status) const;

 private:
  absl::StatusOr<SequenceState> MakeState();
  void Push(worker::v1::PrefillEvent event);
  void ScoreRow(int64_t position, absl::Span<const float> logits, worker::v1::PromptScores* scores) const;
  // Draws the first tokens of all samples from one row of logits.
  void SampleFirstTokens(absl::Span<const float> logits);
  void StartHandoff();
  // All samples do, and nobody keeps the state: there is nothing to hand off.
  bool ends_with_first_token() const { return all_ended_ && !call_->prompt.keep_state; }
  PrefillEnd HandoffEnd() const;
  void PushDone();
  void CountHandoff(const PrefillEnd& end);
  void Record(const PrefillEnd& end) const;
  void EndSpans(const PrefillEnd& end) const;
  absl::Duration Queued() const;
  absl::Duration Computing() const;
  // Last chunk computed to verified.
  absl::Duration ExposedHandoff() const;

  const uint64_t id_;
  const std::shared_ptr<PrefillCall> call_;
  PrefillJobContext* const context_;
  const PrefixKey key_;

  // Until the last chunk is computed. A handoff keeps it alive by itself until the last piece is on its way.
  std::shared_ptr<SequenceState> state_;
  absl::optional<StateCutter> cutter_;
  std::shared_ptr<HandoffSender> sender_;
  bool commit_sent_ = false;

  int64_t cached_tokens_ = 0;
  bool from_session_ = false;
  std::vector<int64_t> cuts_;
  bool computed_ = false;
  // Of all samples, once computed.
  std::vector<FirstTokenRecord> first_tokens_;
  bool all_ended_ = false;
  // A failure of our own, such as a reader that does not read.
  absl::Status failure_;
  // Once the call is ending.
  HandoffOutcome handoff_outcome_;
  Span compute_span_;
  Span handoff_span_;

  absl::Time started_at_ = absl::InfiniteFuture();
  absl::Time computed_at_ = absl::InfiniteFuture();
};

}  // namespace baton
