// One Decode.Run call, from its request to its one end.
//
// A request may have several samples, each with an end of its own; the call ends with the last of them.
//
// Three parties may end it: the engine (the sequence is complete, or its reader too slow), the receiver of its state
// (the handoff failed) and gRPC (the client went away). Whoever comes first decides the outcome, which is counted and
// logged once; the others' attempts do nothing. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "baton/worker/v1/worker.pb.h"
#include "common/observe/tracer.h"
#include "common/rpc/event_writer.h"
#include "common/rpc/worker_request.h"
#include "common/text/vocabulary.h"
#include "decode/decode_metrics.h"
#include "decode/sample_end.h"

namespace baton {

enum class DecodeOutcome { kStop, kLength, kCutOff, kCancelled, kRefused, kFailed, kLeft };

DecodeOutcome OutcomeOf(worker::v1::DoneReason reason);

class DecodeCall {
 public:
  using Events = EventWriter<worker::v1::DecodeEvent>::Handle;

  // `metrics` and `vocabulary` must outlive it. `span`: of the call. `vocabulary`: may be null, see SampleEnd.
  DecodeCall(SequenceRequest request, DecodeMetrics* metrics, Span span = Span(),
             const TokenText* vocabulary = nullptr);
  DecodeCall(const DecodeCall&) = delete;

  // Before any other thread knows of the call.
  void AttachEvents(std::shared_ptr<Events> events) { events_ = std::move(events); }

  const SequenceRequest& request() const { return request_; }
  Events& events() const { return *events_; }
  // Ended in any way: nobody wants its tokens any more.
  bool over() const { return over_.load(std::memory_order_acquire); }

  // The prompt has been computed here. Once, before the sequence is decoded.
  void PromptComputed(int64_t cached_tokens);
  // The state has been verified. Once, before the sequence is decoded.
  void StateReceived(int64_t bytes);
  // From the call's start to StateReceived; 0 before, and where the prompt is computed here.
  double handoff_wait_seconds() const { return handoff_wait_seconds_.load(std::memory_order_relaxed); }
  void CountToken() {
    if (tokens_.fetch_add(1, std::memory_order_relaxed) == 0) decode_span_.Event("first token");
  }

  // Of whoever makes the samples' tokens: the receiver of their state, then the engine.
  SampleEnd& sample_end() { return sample_end_; }

  // What the engine is to do with a sample before its next step; the others go on.
  enum class Wish : uint8_t {
    kGoOn,
    // End it with the tokens it has.
    kComplete,
    // Nobody wants its tokens any more.
    kAbandon,
  };
  // The last that was asked for, except that one that was abandoned stays so.
  void AskOfSample(int sample, Wish wish) {
    std::atomic<Wish>& asked = wishes_[static_cast<size_t>(sample)];
    Wish before = asked.load(std::memory_order_relaxed);
    while (before != Wish::kAbandon && !asked.compare_exchange_weak(before, wish, std::memory_order_release)) {
    }
  }
  Wish wish(int sample) const { return wishes_[static_cast<size_t>(sample)].load(std::memory_order_acquire); }
  // Counts the end of one sample. Those not counted when the call ends share its outcome.
  void CountSample(DecodeOutcome outcome);

  // Ends the call with `status` after what was pushed to events() has been written. False when it was over already.
  bool Finish(DecodeOutcome outcome, const absl::Status& status);

 private:
  void CountAndLog(DecodeOutcome outcome, const absl::Status& status);
  void EndSpans(DecodeOutcome outcome, const absl::Status& status);

  const SequenceRequest request_;
  DecodeMetrics* const metrics_;
  const absl::Time started_;
  std::shared_ptr<Events> events_;
  std::atomic<bool> over_{false};
  std::atomic<double> handoff_wait_seconds_{0};
  std::atomic<int64_t> state_bytes_{0};
  std::atomic<int64_t> tokens_{0};
  std::atomic<int> counted_samples_{0};
  // One for each sample.
  std::vector<std::atomic<Wish>> wishes_;
  SampleEnd sample_end_;
  const Span span_;
  // Until the state is there, or the prompt computed here.
  const Span wait_span_;
  // From then on; set before the engine's thread knows of the call, or by it.
  Span decode_span_;
};

}  // namespace baton
