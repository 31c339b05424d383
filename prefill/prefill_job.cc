#include "prefill/prefill_job.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/first_token.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

using worker::v1::PrefillEvent;
using worker::v1::PromptScores;

// Smaller states gain nothing by shared memory: opening it takes longer than sending them.
constexpr int64_t kWorthSharingBytes = int64_t{1} << 20;

double Seconds(absl::Duration duration) { return std::max(0.0, absl::ToDoubleSeconds(duration)); }
double Milliseconds(absl::Duration duration) { return Seconds(duration) * 1000; }

}  // namespace

PrefillJob::PrefillJob(uint64_t id, std::shared_ptr<PrefillCall> call, PrefillJobContext* context)
    : id_(id),
      call_(std::move(call)),
      context_(context),
      key_(context->cache->enabled() ? PrefixKey(context->model->fingerprint().ToBytes(), call_->prompt.cache_salt,
                                                 call_->prompt.request.tokens)
                                     : PrefixKey()) {}

PromptEntry PrefillJob::MakeEntry(double arrival_seconds) const {
  PromptEntry entry;
  entry.id = id_;
  entry.priority = call_->prompt.request.priority;
  entry.tokens = call_->prompt.tokens_to_compute();
  entry.first_logit_row = call_->prompt.first_logit_row();
  entry.expected_cached = call_->kept_state.has_value() ? call_->kept_state->position()
                                                        : context_->cache->Find(key_, entry.first_logit_row);
  entry.arrival_seconds = arrival_seconds;
  return entry;
}

absl::Status PrefillJob::Start() {
  const PrefillPrompt& prompt = call_->prompt;
  BATON_ASSIGN_OR_RETURN(SequenceState state, MakeState());
  // Whoever lets go of it last, perhaps a gRPC thread, leaves room that a waiting prompt may want.
  state_ = std::shared_ptr<SequenceState>(new SequenceState(std::move(state)), [wake = context_->wake](auto* state) {
    delete state;
    wake();
  });
  // Nothing goes on from the end of a prompt that is only scored.
  const int64_t limit = prompt.first_logit_row();
  cuts_ = context_->cache->CutsFor(key_, cached_tokens_, limit, prompt.score_only ? limit : prompt.tokens());
  context_->metrics->CountPrefix(*context_->cache, cached_tokens_);
  started_at_ = absl::Now();
  context_->metrics->queue_seconds.Observe(Seconds(Queued()));
  call_->queue_span.End();
  compute_span_ = call_->span.Child("prefill");
  compute_span_.Set("baton.computed_tokens", prompt.tokens_to_compute() - cached_tokens_);
  compute_span_.Set("baton.cached_tokens", cached_tokens_);
  if (prompt.handoff.has_value()) StartHandoff();
  return absl::OkStatus();
}

void PrefillJob::StartHandoff() {
  const PrefillPrompt& prompt = call_->prompt;
  const HandoffOptions& handoff = context_->handoff;
  HandoffSenderOptions options;
  options.request_id = prompt.request.request_id;
  handoff_span_ = call_->span.Child("baton.worker.v1.Decode/Receive", SpanKind::kClient);
  handoff_span_.Set("rpc.system", "grpc");
  handoff_span_.Set("server.address", prompt.handoff->endpoint());
  options.span = handoff_span_;
  options.deadline = call_->deadline;
  options.encoding = handoff.encoding;
  options.write_delay = handoff.delay;
  options.offer_shared_memory = handoff.transport == HandoffTransport::kShm ||
                                (handoff.transport == HandoffTransport::kAuto &&
                                 context_->layout->BytesFor(prompt.tokens()) >= kWorthSharingBytes);
  sender_ = HandoffSender::Start(context_->peers.Get(prompt.handoff->endpoint(), started_at_), HeadOf(*prompt.handoff),
                                 {context_->model->fingerprint(), context_->layout, prompt.tokens(), state_,
                                  static_cast<size_t>(prompt.request.samples())},
                                 options, context_->wake);
  cutter_.emplace(*context_->layout, prompt.tokens());
  // What the state had to begin with.
  std::vector<StatePiece> pieces;
  cutter_->AllLayersDone(*state_, &pieces);
  if (!pieces.empty()) sender_->Send(std::move(pieces));
}

void PrefillJob::LayerDone(int layer, const PromptChunk& chunk) {
  std::vector<StatePiece> pieces;
  cutter_->LayerDone(*state_, layer, chunk.begin + chunk.tokens, &pieces);
  if (!pieces.empty()) sender_->Send(std::move(pieces));
}

absl::StatusOr<SequenceState> PrefillJob::MakeState() {
  const int64_t tokens = call_->prompt.tokens_to_compute();
  PrefixCache& cache = *context_->cache;
  if (call_->kept_state.has_value()) {
    from_session_ = true;
    SequenceState kept = *std::move(call_->kept_state);
    call_->kept_state.reset();
    cached_tokens_ = kept.position();
    return kept;
  }
  while (true) {
    cached_tokens_ = cache.Find(key_, call_->prompt.first_logit_row());
    absl::StatusOr<SequenceState> state = cached_tokens_ > 0
                                              ? cache.Resume(key_, cached_tokens_, *context_->budget, tokens)
                                              : SequenceState::Create(context_->layout, *context_->budget, tokens);
    if (!absl::IsResourceExhausted(state.status())) return state;
    // Requests come before what might be of use some day; but if running ones leave too little anyway, it may stay.
    const int64_t missing = context_->layout->BytesFor(tokens) - (context_->budget->total() - context_->budget->used());
    if (missing > cache.bytes() || !cache.EvictOne()) return state;
  }
}

SequenceRun PrefillJob::RunFor(const PromptChunk& chunk) {
  BATON_CHECK(state_ != nullptr && state_->position() == chunk.begin);
  SequenceRun run;
  run.state = &*state_;
  run.tokens = absl::Span<const int32_t>(call_->prompt.request.tokens).subspan(chunk.begin, chunk.tokens);
  run.logits_from = static_cast<size_t>(chunk.tokens - chunk.logit_rows);
  return run;
}

void PrefillJob::TakeLogits(const PromptChunk& chunk, absl::Span<const float> logits) {
  // A kept state may have come in 8 bits; what is cached must be as computed here.
  if (!from_session_) context_->cache->Add(key_, cuts_, *state_);
  const int64_t vocab = context_->model->config().vocab_size;
  const int64_t last_token = call_->prompt.tokens() - 1;
  const int64_t first_row = chunk.begin + chunk.tokens - chunk.logit_rows;
  PrefillEvent event;
  for (int64_t row = 0; row < chunk.logit_rows; ++row) {
    const int64_t position = first_row + row;
    if (position < last_token) ScoreRow(position, logits.subspan(row * vocab, vocab), event.mutable_scores());
  }
  if (event.has_scores()) Push(std::move(event));
  if (!chunk.last) return;
  computed_ = true;
  computed_at_ = absl::Now();
  compute_span_.End();
  context_->metrics->prefill_seconds.Observe(Seconds(Computing()));
  if (!call_->prompt.score_only) SampleFirstTokens(logits.subspan((chunk.logit_rows - 1) * vocab, vocab));
  if (sender_ != nullptr && !ends_with_first_token()) {
    BATON_CHECK(cutter_->complete());
    commit_sent_ = true;
    sender_->Commit(first_tokens_);
  }
  state_.reset();
}

void PrefillJob::ScoreRow(int64_t position, absl::Span<const float> logits, PromptScores* scores) const {
  const SequenceRequest& request = call_->prompt.request;
  const int32_t token = request.tokens[position + 1];
  if (scores->ids().empty()) scores->set_first(static_cast<int32_t>(position + 1));
  scores->add_ids(token);
  ToProto(ComputeLogprob(logits, token, request.top_logprobs), scores->add_logprobs());
}

void PrefillJob::SampleFirstTokens(absl::Span<const float> logits) {
  const SequenceRequest& request = call_->prompt.request;
  PrefillEvent event;
  event.mutable_first_token()->set_cached_tokens(static_cast<int32_t>(cached_tokens_));
  first_tokens_ = baton::SampleFirstTokens(request, logits, context_->sampler, event.mutable_first_token());
  context_->metrics->generation_tokens.Increment(request.samples());
  all_ended_ = std::all_of(first_tokens_.begin(), first_tokens_.end(), [](const auto& token) { return token.ends; });
  Push(std::move(event));
}

void PrefillJob::Push(PrefillEvent event) {
  if (call_->events->Push(std::move(event)) || call_->events->cancelled()) return;
  failure_ = WithReason(absl::ResourceExhaustedError("the caller does not read its events fast enough"), "SLOW_READER");
}

PrefillEnd PrefillJob::Abandon(absl::Status status) const {
  PrefillEnd end{std::move(status), absl::nullopt};
  if (sender_ != nullptr && !ends_with_first_token()) end.handoff_failure = HandoffFailureKind::kCancelled;
  return end;
}

absl::optional<PrefillEnd> PrefillJob::Ended() const {
  if (call_->ended.load(std::memory_order_acquire)) return Abandon(absl::CancelledError("the caller went away"));
  if (!failure_.ok()) return Abandon(failure_);
  if (computed_ && (sender_ == nullptr || ends_with_first_token())) return PrefillEnd{};
  if (sender_ != nullptr && sender_->over()) return HandoffEnd();
  return absl::nullopt;
}

PrefillEnd PrefillJob::HandoffEnd() const {
  const HandoffOutcome outcome = sender_->outcome();
  absl::Status status = outcome.status;
  if (status.ok()) {
    if (commit_sent_ && outcome.position == call_->prompt.tokens()) return PrefillEnd{};
    status = absl::InternalError(absl::StrCat("the decode worker answered that it is at position ", outcome.position,
                                              " of a prompt of ", call_->prompt.tokens(),
                                              commit_sent_ ? " tokens" : " tokens, before it had the whole state"));
  }
  HandoffFailure failure = ExplainHandoffFailure(status, call_->prompt.handoff->endpoint());
  return PrefillEnd{std::move(failure.status), failure.kind};
}

void PrefillJob::Finish(const PrefillEnd& end) {
  if (sender_ != nullptr) {
    if (!sender_->over()) sender_->Cancel();
    handoff_outcome_ = sender_->outcome();
    CountHandoff(end);
    if (end.handoff_failure == HandoffFailureKind::kUnreachable) {
      context_->peers.Forget(call_->prompt.handoff->endpoint());
    }
  }
  state_.reset();
  call_->kept_state.reset();
  EndSpans(end);
  if (end.status.ok()) PushDone();
  call_->events->Finish(ToGrpcStatus(end.status));
  Record(end);
}

void PrefillJob::EndSpans(const PrefillEnd& end) const {
  const Span& span = call_->span;
  if (!span) return;
  if (sender_ != nullptr) {
    handoff_span_.Set("baton.state_bytes", handoff_outcome_.bytes);
    handoff_span_.Set("baton.shared_memory_bytes", handoff_outcome_.shared_bytes);
    if (end.handoff_failure.has_value()) handoff_span_.Fail(end.status.message());
    handoff_span_.End();
  }
  span.Set("baton.cached_tokens", cached_tokens_);
  span.Set("rpc.grpc.status_code", static_cast<int64_t>(end.status.code()));
  if (!end.status.ok()) span.Fail(end.status.message());
  span.End();
}

void PrefillJob::PushDone() {
  PrefillEvent event;
  worker::v1::PrefillDone* done = event.mutable_done();
  done->set_queue_seconds(Seconds(Queued()));
  done->set_compute_seconds(Seconds(Computing()));
  done->set_cached_tokens(static_cast<int32_t>(cached_tokens_));
  if (commit_sent_) {
    done->set_handoff_seconds(Seconds(ExposedHandoff()));
    done->set_handoff_bytes(handoff_outcome_.bytes);
  }
  call_->events->Push(std::move(event));
}

void PrefillJob::CountHandoff(const PrefillEnd& end) {
  PrefillMetrics& metrics = *context_->metrics;
  metrics.handoff_bytes_total.Increment(static_cast<double>(handoff_outcome_.bytes));
  metrics.handoff_shared_bytes_total.Increment(static_cast<double>(handoff_outcome_.shared_bytes));
  if (!end.handoff_failure.has_value()) {
    if (!commit_sent_) return;
    metrics.handoff_bytes.Observe(static_cast<double>(handoff_outcome_.bytes));
    metrics.handoff_total_seconds.Observe(Seconds(handoff_outcome_.ended - handoff_outcome_.first_write));
    metrics.handoff_exposed_seconds.Observe(Seconds(ExposedHandoff()));
    return;
  }
  switch (*end.handoff_failure) {
    case HandoffFailureKind::kCancelled:
      return metrics.handoff_cancelled.Increment();
    case HandoffFailureKind::kUnreachable:
      return metrics.handoff_unreachable.Increment();
    case HandoffFailureKind::kRefused:
      return metrics.handoff_refused.Increment();
    case HandoffFailureKind::kCorrupt:
      return metrics.handoff_corrupt.Increment();
  }
}

void PrefillJob::Record(const PrefillEnd& end) const {
  const PrefillPrompt& prompt = call_->prompt;
  PrefillMetrics& metrics = *context_->metrics;
  absl::string_view outcome = "done";
  if (end.status.ok()) {
    metrics.finished_done.Increment();
  } else if (absl::IsCancelled(end.status)) {
    outcome = "cancelled";
    metrics.finished_cancelled.Increment();
  } else {
    outcome = "failed";
    metrics.finished_failed.Increment();
  }

  const bool failed = !end.status.ok() && !absl::IsCancelled(end.status);
  Log log(failed ? Severity::kWarning : Severity::kInfo, "prefill_request");
  log.With("request_id", prompt.request.request_id)
      .With("outcome", outcome)
      .With("prompt_tokens", prompt.tokens())
      .With("priority", prompt.request.priority);
  if (prompt.request.samples() > 1) log.With("samples", prompt.request.samples());
  if (prompt.score_from.has_value()) log.With("scored_tokens", prompt.tokens() - *prompt.score_from);
  if (started()) log.With("queue_ms", Milliseconds(Queued())).With("cached_tokens", cached_tokens_);
  if (computed_) log.With("prefill_ms", Milliseconds(Computing()));
  if (ends_with_first_token()) log.With("ended_by_first_token", true);
  if (sender_ != nullptr) {
    log.With("decode_worker", prompt.handoff->endpoint()).With("handoff_bytes", handoff_outcome_.bytes);
    if (end.status.ok() && commit_sent_) log.With("handoff_exposed_ms", Milliseconds(ExposedHandoff()));
  }
  if (failed) log.With("error", end.status);
}

absl::Duration PrefillJob::Queued() const { return started_at_ - call_->accepted; }
absl::Duration PrefillJob::Computing() const { return computed_at_ - started_at_; }
absl::Duration PrefillJob::ExposedHandoff() const { return handoff_outcome_.ended - computed_at_; }

}  // namespace baton
