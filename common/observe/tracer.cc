#include "common/observe/tracer.h"

#include <algorithm>
#include <cstring>

namespace baton {
namespace {

constexpr size_t kMaxErrorBytes = 512;
constexpr size_t kMaxValueBytes = 512;
// Of one span: far more than any has.
constexpr size_t kMaxAttributes = 32;
constexpr size_t kMaxEvents = 16;

// Texts may quote peers; they end in other systems' databases and on terminals.
std::string Printable(absl::string_view text, size_t most) {
  std::string out(text.substr(0, most));
  for (char& c : out) {
    if (c < 0x20 || c > 0x7e) c = '?';
  }
  return out;
}

int64_t UnixNanos() {
  return std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::system_clock::now().time_since_epoch())
      .count();
}

// So that a share `ratio` of all ids is below it: the ids' last bytes are random.
bool IsSampled(const TraceId& id, double ratio) {
  if (ratio >= 1) return true;
  uint64_t random;
  std::memcpy(&random, id.data() + 8, sizeof(random));
  return static_cast<double>(random >> 11) * 0x1p-53 < ratio;
}

int64_t BytesOf(const SpanRecord& span) {
  size_t bytes = sizeof(span) + span.error.capacity() + span.events.capacity() * sizeof(SpanEvent) +
                 span.attributes.capacity() * sizeof(SpanAttribute);
  for (const SpanAttribute& attribute : span.attributes) {
    bytes += attribute.text.capacity();
  }
  return static_cast<int64_t>(bytes);
}

}  // namespace

CallTrace::CallTrace(TraceContext context, bool records, std::string request_id, std::string owner)
    : context_(std::move(context)),
      records_(records),
      request_id_(std::move(request_id)),
      owner_(std::move(owner)),
      start_unix_nanos_(UnixNanos()),
      start_(std::chrono::steady_clock::now()) {}

int64_t CallTrace::Now() const {
  return start_unix_nanos_ +
         std::chrono::duration_cast<std::chrono::nanoseconds>(std::chrono::steady_clock::now() - start_).count();
}

SpanRecord* CallTrace::Open(size_t span) {
  if (over_ || span >= spans_.size() || spans_[span].end_unix_nanos != 0) return nullptr;
  return &spans_[span];
}

std::vector<SpanRecord> CallTrace::Snapshot() const {
  absl::MutexLock lock(&mutex_);
  return spans_;
}

int64_t CallTrace::bytes() const {
  absl::MutexLock lock(&mutex_);
  size_t bytes = sizeof(*this) + request_id_.capacity() + owner_.capacity() + context_.trace_state.capacity();
  bytes += (spans_.capacity() - spans_.size()) * sizeof(SpanRecord);
  for (const SpanRecord& span : spans_) bytes += static_cast<size_t>(BytesOf(span));
  return static_cast<int64_t>(bytes);
}

Span Span::Child(const char* name, SpanKind kind) const {
  if (trace_ == nullptr) return Span();
  if (index_ == kNotRecorded) return *this;
  absl::MutexLock lock(&trace_->mutex_);
  // A call that is over has no new parts.
  if (trace_->over_) return Span(trace_, kNotRecorded);
  if (trace_->spans_.size() >= CallTrace::kMaxSpans) {
    ++trace_->dropped_spans_;
    return Span(trace_, kNotRecorded);
  }
  SpanRecord& span = trace_->spans_.emplace_back();
  span.id = NewSpanId();
  span.parent = trace_->spans_[index_].id;
  span.name = name;
  span.kind = kind;
  span.start_unix_nanos = trace_->Now();
  return Span(trace_, trace_->spans_.size() - 1);
}

void Span::SetAttribute(SpanAttribute attribute) const {
  absl::MutexLock lock(&trace_->mutex_);
  SpanRecord* const span = trace_->Open(index_);
  if (span == nullptr) return;
  for (SpanAttribute& old : span->attributes) {
    if (std::strcmp(old.key, attribute.key) != 0) continue;
    old = std::move(attribute);
    return;
  }
  if (span->attributes.empty()) span->attributes.reserve(4);
  if (span->attributes.size() < kMaxAttributes) span->attributes.push_back(std::move(attribute));
}

void Span::Set(const char* key, int64_t value) const {
  if (recorded()) SetAttribute({key, SpanAttribute::Kind::kNumber, value, 0, ""});
}
void Span::Set(const char* key, double value) const {
  if (recorded()) SetAttribute({key, SpanAttribute::Kind::kReal, 0, value, ""});
}
void Span::Set(const char* key, bool value) const {
  if (recorded()) SetAttribute({key, SpanAttribute::Kind::kFlag, value ? 1 : 0, 0, ""});
}
void Span::Set(const char* key, absl::string_view value) const {
  if (recorded()) SetAttribute({key, SpanAttribute::Kind::kText, 0, 0, Printable(value, kMaxValueBytes)});
}
void Span::SetList(const char* key, absl::string_view only) const {
  if (recorded()) SetAttribute({key, SpanAttribute::Kind::kList, 0, 0, Printable(only, kMaxValueBytes)});
}

void Span::Event(const char* name) const {
  if (!recorded()) return;
  absl::MutexLock lock(&trace_->mutex_);
  SpanRecord* const span = trace_->Open(index_);
  if (span != nullptr && span->events.size() < kMaxEvents) span->events.push_back({name, trace_->Now()});
}

void Span::Fail(absl::string_view why) const {
  if (!recorded()) return;
  absl::MutexLock lock(&trace_->mutex_);
  SpanRecord* const span = trace_->Open(index_);
  if (span == nullptr || span->failed) return;
  span->failed = true;
  span->error = Printable(why, kMaxErrorBytes);
}

void Span::End() const {
  if (!recorded()) return;
  {
    absl::MutexLock lock(&trace_->mutex_);
    SpanRecord* const span = trace_->Open(index_);
    if (span == nullptr) return;
    span->end_unix_nanos = trace_->Now();
    if (index_ != 0) return;
    const int64_t end = span->end_unix_nanos;
    if (trace_->dropped_spans_ > 0)
      span->attributes.push_back({"baton.dropped_spans", SpanAttribute::Kind::kNumber, trace_->dropped_spans_, 0, ""});
    for (SpanRecord& open : trace_->spans_) {
      if (open.end_unix_nanos == 0) open.end_unix_nanos = end;
    }
    trace_->over_ = true;
  }
  if (const std::shared_ptr<Tracer> tracer = trace_->tracer_.lock()) tracer->Ended(trace_);
}

absl::optional<TraceContext> Span::context() const {
  if (trace_ == nullptr) return absl::nullopt;
  TraceContext context = trace_->context_;
  if (!trace_->records_) return context;
  absl::MutexLock lock(&trace_->mutex_);
  // What is done in a span that there was no room for counts as done in the call.
  context.span_id = trace_->spans_[index_ == kNotRecorded ? 0 : index_].id;
  return context;
}

void TraceHistory::Add(std::shared_ptr<CallTrace> trace) {
  std::shared_ptr<CallTrace> oldest;  // freed without the lock
  absl::MutexLock lock(&mutex_);
  trace->in_history_ = true;
  calls_.push_back(std::move(trace));
  if (calls_.size() <= max_calls_) return;
  oldest = std::move(calls_.front());
  calls_.pop_front();
  oldest->in_history_ = false;
  bytes_ -= oldest->history_bytes_;
}

void TraceHistory::Ended(CallTrace& trace) {
  const int64_t bytes = trace.bytes();
  std::vector<std::shared_ptr<CallTrace>> old;
  absl::MutexLock lock(&mutex_);
  if (!trace.in_history_) return;
  trace.history_bytes_ = bytes;
  bytes_ += bytes;
  while (bytes_ > max_bytes_ && !calls_.empty()) {
    old.push_back(std::move(calls_.front()));
    calls_.pop_front();
    old.back()->in_history_ = false;
    bytes_ -= old.back()->history_bytes_;
  }
}

std::vector<std::shared_ptr<const CallTrace>> TraceHistory::Find(absl::string_view request_id) const {
  std::vector<std::shared_ptr<const CallTrace>> found;
  absl::MutexLock lock(&mutex_);
  for (auto call = calls_.rbegin(); call != calls_.rend(); ++call) {
    if ((*call)->request_id() == request_id) found.push_back(*call);
  }
  return found;
}

size_t TraceHistory::size() const {
  absl::MutexLock lock(&mutex_);
  return calls_.size();
}

int64_t TraceHistory::bytes() const {
  absl::MutexLock lock(&mutex_);
  return bytes_;
}

std::shared_ptr<Tracer> Tracer::Create(const TracerOptions& options) {
  return std::shared_ptr<Tracer>(new Tracer(options));
}

Span Tracer::Begin(const char* name, const absl::optional<TraceContext>& parent, absl::string_view request_id,
                   absl::string_view owner) {
  const bool remembers = options_.history > 0;
  if (!parent.has_value() && !remembers && options_.ratio <= 0) return Span();
  TraceContext context;
  if (parent.has_value()) {
    context = *parent;
  } else {
    context.trace_id = NewTraceId();
    context.sampled = IsSampled(context.trace_id, options_.ratio);
  }
  const bool records = remembers || (context.sampled && options_.sink != nullptr);
  if (!records) {
    if (!parent.has_value() && !context.sampled) return Span();
    // Who calls on is told of the trace, but there is no span of ours to name.
    if (!parent.has_value()) context.span_id = NewSpanId();
    return Span(std::shared_ptr<CallTrace>(new CallTrace(std::move(context), false, "", "")), Span::kNotRecorded);
  }
  std::shared_ptr<CallTrace> trace(
      new CallTrace(std::move(context), true, std::string(request_id), std::string(owner)));
  trace->tracer_ = weak_from_this();
  {
    absl::MutexLock lock(&trace->mutex_);
    trace->spans_.reserve(8);
    SpanRecord& first = trace->spans_.emplace_back();
    first.id = NewSpanId();
    if (parent.has_value()) first.parent = parent->span_id;
    first.name = name;
    first.kind = SpanKind::kServer;
    first.start_unix_nanos = trace->start_unix_nanos_;
  }
  if (remembers) history_.Add(trace);
  return Span(std::move(trace), 0);
}

void Tracer::Ended(const std::shared_ptr<CallTrace>& trace) {
  if (options_.history > 0) history_.Ended(*trace);
  if (trace->sampled() && options_.sink != nullptr) options_.sink->Take(trace);
}

}  // namespace baton
