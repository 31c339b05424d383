#include "common/observe/tracer.h"

#include <atomic>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace baton {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::SizeIs;

class Collected final : public SpanSink {
 public:
  void Take(std::shared_ptr<const CallTrace> trace) override {
    absl::MutexLock lock(&mutex_);
    traces_.push_back(std::move(trace));
  }
  std::vector<std::shared_ptr<const CallTrace>> traces() {
    absl::MutexLock lock(&mutex_);
    return traces_;
  }

 private:
  absl::Mutex mutex_;
  std::vector<std::shared_ptr<const CallTrace>> traces_;
};

TraceContext Parent(bool sampled) {
  TraceContext parent;
  parent.trace_id = NewTraceId();
  parent.span_id = NewSpanId();
  parent.sampled = sampled;
  parent.trace_state = "a=1";
  return parent;
}

TEST(SpanTest, OfNoTraceDoesNothing) {
  const Span none;
  EXPECT_FALSE(none);
  const Span child = none.Child("child");
  EXPECT_FALSE(child);
  child.Set("key", 1);
  child.Event("event");
  child.Fail("why");
  child.End();
  EXPECT_FALSE(child.context().has_value());
}

TEST(TracerTest, RecordsATree) {
  const auto tracer = Tracer::Create({.history = 10});
  const TraceContext parent = Parent(false);
  const Span call = tracer->Begin("call", parent, "req-1", "owner");
  const Span part = call.Child("part", SpanKind::kClient);
  const Span deeper = part.Child("deeper");
  deeper.Set("number", 1);
  deeper.Set("number", 2);
  deeper.Set("text", "a\nb\xff");
  deeper.Event("moment");
  deeper.Fail("first");
  deeper.Fail("second");
  deeper.End();
  const auto found = tracer->history().Find("req-1");
  ASSERT_THAT(found, SizeIs(1));
  EXPECT_EQ(found[0]->owner(), "owner");
  EXPECT_EQ(found[0]->trace_id(), parent.trace_id);
  // Those that run are seen too.
  std::vector<SpanRecord> spans = found[0]->Snapshot();
  ASSERT_THAT(spans, SizeIs(3));
  EXPECT_EQ(spans[0].parent, parent.span_id);
  EXPECT_EQ(spans[1].parent, spans[0].id);
  EXPECT_EQ(spans[2].parent, spans[1].id);
  EXPECT_EQ(spans[0].end_unix_nanos, 0);
  EXPECT_EQ(spans[1].end_unix_nanos, 0);
  EXPECT_GE(spans[2].end_unix_nanos, spans[2].start_unix_nanos);
  ASSERT_THAT(spans[2].attributes, SizeIs(2));
  EXPECT_EQ(spans[2].attributes[0].number, 2);
  EXPECT_EQ(spans[2].attributes[1].text, "a?b?");
  ASSERT_THAT(spans[2].events, SizeIs(1));
  EXPECT_TRUE(spans[2].failed);
  EXPECT_EQ(spans[2].error, "first");
  // Calls made in a part are its children, and know what the caller's system passes along.
  const auto context = part.context();
  ASSERT_TRUE(context.has_value());
  EXPECT_EQ(context->span_id, spans[1].id);
  EXPECT_EQ(context->trace_id, parent.trace_id);
  EXPECT_EQ(context->trace_state, "a=1");
  EXPECT_FALSE(context->sampled);
}

TEST(TracerTest, TheEndOfACallIsTheEndOfItsParts) {
  const auto sink = std::make_shared<Collected>();
  const auto tracer = Tracer::Create({.ratio = 1, .sink = sink});
  const Span call = tracer->Begin("call", absl::nullopt, "req-1");
  const Span open = call.Child("open");
  call.End();
  call.End();
  ASSERT_THAT(sink->traces(), SizeIs(1));
  open.Set("late", 1);
  open.End();
  const Span late = call.Child("late");
  late.End();
  const std::vector<SpanRecord>& spans = sink->traces()[0]->spans();
  ASSERT_THAT(spans, SizeIs(2));
  EXPECT_EQ(spans[1].end_unix_nanos, spans[0].end_unix_nanos);
  EXPECT_THAT(spans[1].attributes, IsEmpty());
  EXPECT_TRUE(IsSet(sink->traces()[0]->trace_id()));
  EXPECT_FALSE(IsSet(spans[0].parent));
}

TEST(TracerTest, TheCallerDecidesWhatIsSampled) {
  const auto sink = std::make_shared<Collected>();
  const auto all = Tracer::Create({.ratio = 1, .sink = sink});
  all->Begin("call", Parent(false), "req-1").End();
  EXPECT_THAT(sink->traces(), IsEmpty());
  const auto none = Tracer::Create({.ratio = 0, .sink = sink});
  none->Begin("call", absl::nullopt, "req-2").End();
  EXPECT_THAT(sink->traces(), IsEmpty());
  none->Begin("call", Parent(true), "req-3").End();
  ASSERT_THAT(sink->traces(), SizeIs(1));
  EXPECT_EQ(sink->traces()[0]->request_id(), "req-3");
}

TEST(TracerTest, RatioIsAShare) {
  const auto sink = std::make_shared<Collected>();
  const auto tracer = Tracer::Create({.ratio = 0.25, .sink = sink});
  for (int i = 0; i < 4000; ++i) tracer->Begin("call", absl::nullopt, "req").End();
  EXPECT_GT(sink->traces().size(), 800u);
  EXPECT_LT(sink->traces().size(), 1200u);
}

TEST(TracerTest, PassesOnAContextThatItDoesNotRecord) {
  const auto off = Tracer::Create({});
  EXPECT_FALSE(off->Begin("call", absl::nullopt, "req-1"));
  const TraceContext parent = Parent(true);
  const Span call = off->Begin("call", parent, "req-1");
  const Span child = call.Child("child");
  child.Set("key", 1);
  child.End();
  for (const Span& span : {call, child}) {
    const auto context = span.context();
    ASSERT_TRUE(context.has_value());
    EXPECT_EQ(FormatTraceparent(*context), FormatTraceparent(parent));
    EXPECT_EQ(context->trace_state, parent.trace_state);
  }
  call.End();
  EXPECT_EQ(off->history().size(), 0u);
}

TEST(TracerTest, SpansAreBounded) {
  const auto tracer = Tracer::Create({.history = 1});
  const Span call = tracer->Begin("call", absl::nullopt, "req-1");
  for (size_t i = 0; i < 2 * CallTrace::kMaxSpans; ++i) {
    const Span child = call.Child("child");
    // Whatever was not recorded, calls made in it are part of the trace.
    ASSERT_TRUE(child.context().has_value());
    ASSERT_TRUE(IsSet(child.context()->span_id));
    for (int attribute = 0; attribute < 100; ++attribute) child.Set("key", attribute);
    for (int event = 0; event < 100; ++event) child.Event("event");
    child.Fail(std::string(100000, 'x'));
    child.End();
  }
  call.End();
  const auto found = tracer->history().Find("req-1");
  ASSERT_THAT(found, SizeIs(1));
  const auto spans = found[0]->Snapshot();
  EXPECT_THAT(spans, SizeIs(CallTrace::kMaxSpans));
  ASSERT_THAT(spans[0].attributes, SizeIs(1));
  EXPECT_EQ(spans[0].attributes[0].number, static_cast<int64_t>(CallTrace::kMaxSpans) + 1);
  EXPECT_LT(found[0]->bytes(), 1 << 20);
}

TEST(TraceHistoryTest, ForgetsTheOldest) {
  const auto tracer = Tracer::Create({.history = 3});
  const Span running = tracer->Begin("call", absl::nullopt, "req-0");
  for (int i = 1; i <= 3; ++i) tracer->Begin("call", absl::nullopt, i == 2 ? "twice" : "req").End();
  EXPECT_EQ(tracer->history().size(), 3u);
  EXPECT_THAT(tracer->history().Find("req-0"), IsEmpty());
  tracer->Begin("later", absl::nullopt, "twice").End();
  const auto twice = tracer->history().Find("twice");
  ASSERT_THAT(twice, SizeIs(2));
  EXPECT_STREQ(twice[0]->Snapshot()[0].name, "later");
  // Ends after it was forgotten.
  const int64_t bytes = tracer->history().bytes();
  running.End();
  EXPECT_EQ(tracer->history().bytes(), bytes);
}

TEST(TraceHistoryTest, BytesAreBounded) {
  constexpr int64_t kBytes = 64 << 10;
  const auto tracer = Tracer::Create({.history = 1000, .history_bytes = kBytes});
  for (int i = 0; i < 1000; ++i) {
    const Span call = tracer->Begin("call", absl::nullopt, "req");
    call.Set("text", std::string(500, 'x'));
    call.End();
    ASSERT_LE(tracer->history().bytes(), kBytes);
  }
  EXPECT_GT(tracer->history().size(), 10u);
  EXPECT_LT(tracer->history().size(), 100u);
}

TEST(TracerTest, ManyThreads) {
  const auto sink = std::make_shared<Collected>();
  const auto tracer = Tracer::Create({.ratio = 1, .history = 8, .sink = sink});
  constexpr int kCalls = 50;
  std::atomic<bool> done{false};
  std::thread reader([&] {
    while (!done.load()) {
      for (const auto& trace : tracer->history().Find("req")) EXPECT_GE(trace->Snapshot().size(), 1u);
    }
  });
  for (int i = 0; i < kCalls; ++i) {
    const Span call = tracer->Begin("call", absl::nullopt, "req");
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; ++t) {
      threads.emplace_back([call] {
        const Span child = call.Child("child");
        child.Set("key", 1);
        child.Event("event");
        call.Set("key", 2);
        child.End();
      });
    }
    // One that comes too late for some.
    threads.emplace_back([call] { call.End(); });
    for (std::thread& thread : threads) thread.join();
  }
  done.store(true);
  reader.join();
  EXPECT_THAT(sink->traces(), SizeIs(kCalls));
}

}  // namespace
}  // namespace baton
