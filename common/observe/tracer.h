// Spans of requests: who did what when, across processes. A call that a process serves is one CallTrace, whose spans
// are recorded through handles:
//
//   Span call = tracer->Begin("baton.worker.v1.Prefill/Run", parent, request_id);
//   Span queue = call.Child("queue");
//   ...
//   queue.End();
//   call.Set("baton.prompt_tokens", 17);
//   call.End();                                  // ends what is still open; from now on the trace does not change
//
// A handle of no trace, Span(), does nothing, at the cost of a comparison: code that is traced need not ask whether it
// is. Nothing is recorded for each token. Names and keys are string literals; of texts at most 512 bytes are kept, and
// what is not printable ASCII becomes a question mark.
//
// Two things may happen to a trace. The process remembers its last ones (TracerOptions::history), for `baton trace`;
// and those that are sampled go to a SpanSink when they end. Where neither wants it, a caller's context is passed on
// untouched and nothing is recorded.
//
// Times are wall-clock time of the trace's begin plus steady durations, so a clock that is set does not bend a trace.
// Thread-safe.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/optional.h"
#include "common/observe/trace_context.h"

namespace baton {

enum class SpanKind { kInternal, kServer, kClient };

// Which of its values counts is said by `kind`; a list is of one text.
struct SpanAttribute {
  enum class Kind { kNumber, kReal, kFlag, kText, kList };
  const char* key = "";
  Kind kind = Kind::kNumber;
  int64_t number = 0;
  double real = 0;
  std::string text;
};

struct SpanEvent {
  const char* name;
  int64_t unix_nanos = 0;
};

struct SpanRecord {
  SpanId id{};
  // Zeros: the trace begins here.
  SpanId parent{};
  const char* name = "";
  SpanKind kind = SpanKind::kInternal;
  int64_t start_unix_nanos = 0;
  // 0: not over.
  int64_t end_unix_nanos = 0;
  bool failed = false;
  // Why.
  std::string error;
  std::vector<SpanAttribute> attributes;
  std::vector<SpanEvent> events;
};

class Tracer;

// What was recorded of one call. Spans record into it; readers take a copy, or read spans() once it is over.
class CallTrace {
 public:
  // Spans of one call: more are not recorded, and their number is an attribute of the first.
  static constexpr size_t kMaxSpans = 256;

  const std::string& request_id() const { return request_id_; }
  // Who may see it; what that means is the caller's of Begin.
  const std::string& owner() const { return owner_; }
  const TraceId& trace_id() const { return context_.trace_id; }
  const std::string& trace_state() const { return context_.trace_state; }
  bool sampled() const { return context_.sampled; }
  // All so far, in order of their start; the first is the call's own.
  std::vector<SpanRecord> Snapshot() const;
  // Only once it was given to a SpanSink: then nobody changes it any more.
  const std::vector<SpanRecord>& spans() const ABSL_NO_THREAD_SAFETY_ANALYSIS { return spans_; }
  // About what it takes in memory.
  int64_t bytes() const;

 private:
  friend class Span;
  friend class Tracer;
  friend class TraceHistory;

  CallTrace(TraceContext context, bool records, std::string request_id, std::string owner);
  int64_t Now() const;
  SpanRecord* Open(size_t span) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const TraceContext context_;
  const bool records_;
  const std::string request_id_;
  const std::string owner_;
  const int64_t start_unix_nanos_;
  const std::chrono::steady_clock::time_point start_;
  std::weak_ptr<Tracer> tracer_;
  // TraceHistory's, under its lock.
  bool in_history_ = false;
  int64_t history_bytes_ = 0;

  mutable absl::Mutex mutex_;
  std::vector<SpanRecord> spans_ ABSL_GUARDED_BY(mutex_);
  int64_t dropped_spans_ ABSL_GUARDED_BY(mutex_) = 0;
  bool over_ ABSL_GUARDED_BY(mutex_) = false;
};

// A span that is being recorded, or nothing. Copies are the same span.
class Span {
 public:
  Span() = default;

  explicit operator bool() const { return trace_ != nullptr; }
  Span Child(const char* name, SpanKind kind = SpanKind::kInternal) const;
  void Set(const char* key, int64_t value) const;
  void Set(const char* key, int value) const { Set(key, int64_t{value}); }
  void Set(const char* key, double value) const;
  void Set(const char* key, bool value) const;
  void Set(const char* key, absl::string_view value) const;
  void Set(const char* key, const char* value) const { Set(key, absl::string_view(value)); }
  void SetList(const char* key, absl::string_view only) const;
  void Event(const char* name) const;
  // It did not do what it should have; does not end it. The first reason counts.
  void Fail(absl::string_view why) const;
  // The first call counts.
  void End() const;
  // For calls that are made in this span. Absent for a handle of no trace.
  absl::optional<TraceContext> context() const;
  // Null for a handle of no trace.
  const std::shared_ptr<CallTrace>& trace() const { return trace_; }

 private:
  friend class Tracer;
  // Not recorded, and its children are not either; there is only its context.
  static constexpr size_t kNotRecorded = SIZE_MAX;

  Span(std::shared_ptr<CallTrace> trace, size_t index) : trace_(std::move(trace)), index_(index) {}
  bool recorded() const { return trace_ != nullptr && index_ != kNotRecorded; }
  void SetAttribute(SpanAttribute attribute) const;

  std::shared_ptr<CallTrace> trace_;
  size_t index_ = kNotRecorded;
};

// Takes sampled traces that have ended. Must not block; called from any thread.
class SpanSink {
 public:
  virtual ~SpanSink() = default;
  virtual void Take(std::shared_ptr<const CallTrace> trace) = 0;
};

// The last calls of a process. Running ones are among them.
class TraceHistory {
 public:
  // `bytes`: of those that have ended, about.
  TraceHistory(size_t calls, int64_t bytes) : max_calls_(calls), max_bytes_(bytes) {}
  TraceHistory(const TraceHistory&) = delete;

  bool enabled() const { return max_calls_ > 0; }
  void Add(std::shared_ptr<CallTrace> trace);
  // Now it is known how large it is.
  void Ended(CallTrace& trace);
  // With this request id, the newest first.
  std::vector<std::shared_ptr<const CallTrace>> Find(absl::string_view request_id) const;
  size_t size() const;
  int64_t bytes() const;

 private:
  const size_t max_calls_;
  const int64_t max_bytes_;
  mutable absl::Mutex mutex_;
  std::deque<std::shared_ptr<CallTrace>> calls_ ABSL_GUARDED_BY(mutex_);
  int64_t bytes_ ABSL_GUARDED_BY(mutex_) = 0;
};

struct TracerOptions {
  // Of the requests that come without a context, the share that is sampled: 0 to 1. Others are as their callers say.
  double ratio = 0;
  // Calls that are remembered; 0: none.
  size_t history = 0;
  int64_t history_bytes = int64_t{32} << 20;
  // Null: nobody wants sampled traces.
  std::shared_ptr<SpanSink> sink;
};

class Tracer : public std::enable_shared_from_this<Tracer> {
 public:
  static std::shared_ptr<Tracer> Create(const TracerOptions& options);
  Tracer(const Tracer&) = delete;

  // A call that this process serves. Ends with the handle's End(). `parent`: of its caller.
  Span Begin(const char* name, const absl::optional<TraceContext>& parent, absl::string_view request_id,
             absl::string_view owner = "");
  const TraceHistory& history() const { return history_; }

 private:
  friend class Span;
  explicit Tracer(const TracerOptions& options) : options_(options), history_(options.history, options.history_bytes) {}
  void Ended(const std::shared_ptr<CallTrace>& trace);

  const TracerOptions options_;
  TraceHistory history_;
};

}  // namespace baton
