#include "decode/engine.h"

#include <algorithm>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/types/optional.h"
#include "common/base/status_macros.h"
#include "common/rpc/status_mapping.h"
#include "decode/turn.h"

namespace baton {
namespace {

using worker::v1::DecodeDone;
using worker::v1::DecodeEvent;

// With this many events waiting to be written, a reader is behind.
constexpr size_t kQueuedEventsWhenBehind = 2;

bool HasPenalties(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f;
}

}  // namespace

struct DecodeEngine::Sequence {
  Sequence(std::shared_ptr<DecodeCall> call_in, SequenceState state_in, int32_t first_token)
      : call(std::move(call_in)), state(std::move(state_in)), next_token(first_token) {
    const SequenceRequest& request = call->request();
    generated = request.generated_tokens + 1;
    needs_history = HasPenalties(request.sampling);
    if (needs_history) {
      history = request.MakeHistory();
      history.AddOutput(first_token);
    }
  }

  const std::shared_ptr<DecodeCall> call;
  // Absent once the sequence has ended.
  absl::optional<SequenceState> state;
  // The token at state->position(), not consumed yet.
  int32_t next_token;
  // Tokens generated so far, next_token included.
  int64_t generated;
  bool needs_history;
  TokenHistory history;
  // Sampled and not pushed yet.
  DecodeEvent unread;
  Turn turn;
};

DecodeEngine::DecodeEngine(Model* model, const DecodeEngineOptions& options, DecodeMetrics* metrics, LoadReporter* load)
    : model_(model), options_(options), metrics_(metrics), load_(load) {
  BATON_CHECK(options.max_batch >= 1 && options.max_unread_tokens >= 1);
}

DecodeEngine::~DecodeEngine() { Stop(); }

void DecodeEngine::Start() {
  BATON_CHECK(!thread_.joinable());
  thread_ = std::thread([this] { Loop(); });
}

void DecodeEngine::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

void DecodeEngine::Add(std::shared_ptr<DecodeCall> call, SequenceState state, int32_t first_token) {
  BATON_CHECK(state.position() == static_cast<int64_t>(call->request().tokens.size()));
  auto sequence = std::make_unique<Sequence>(std::move(call), std::move(state), first_token);
  absl::MutexLock lock(&mutex_);
  arrivals_.push_back(std::move(sequence));
}

void DecodeEngine::Loop() {
  while (AdmitNew()) {
    DropEnded();
    if (sequences_.empty()) continue;
    SelectBatch();
    Step();
  }
  for (const auto& sequence : sequences_) {
    sequence->call->Finish(DecodeOutcome::kFailed,
                           WithReason(absl::UnavailableError("the decode worker is stopping"), "DRAINING"));
  }
  DropEnded();
}

bool DecodeEngine::AdmitNew() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &DecodeEngine::HasWork));
  for (auto& sequence : arrivals_) {
    sequence->turn = {.last_step = step_, .priority = sequence->call->request().priority, .number = turns_++};
    sequences_.push_back(std::move(sequence));
  }
  arrivals_.clear();
  return !stopping_;
}

void DecodeEngine::DropEnded() {
  const auto over = [](const std::unique_ptr<Sequence>& sequence) { return sequence->call->over(); };
  const auto first = std::remove_if(sequences_.begin(), sequences_.end(), over);
  if (first != sequences_.end()) {
    sequences_.erase(first, sequences_.end());
    metrics_->UpdateStateBytes();
  }
  ReportRunning();
}

void DecodeEngine::ReportRunning() {
  const int64_t running = static_cast<int64_t>(sequences_.size());
  load_->SetRunning(running);
  metrics_->requests_running.Set(static_cast<double>(running));
}

void DecodeEngine::SelectBatch() {
  batch_.clear();
  for (const auto& sequence : sequences_) batch_.push_back(sequence.get());
  const size_t limit = static_cast<size_t>(options_.max_batch);
  if (batch_.size() <= limit) return;
  std::partial_sort(batch_.begin(), batch_.begin() + static_cast<int64_t>(limit), batch_.end(),
                    [](const Sequence* a, const Sequence* b) { return GoesBefore(a->turn, b->turn); });
  batch_.resize(limit);
}

void DecodeEngine::Step() {
  if (options_.step_delay > absl::ZeroDuration()) absl::SleepFor(options_.step_delay);
  const absl::Time start = absl::Now();
  ++step_;
  runs_.clear();
  for (Sequence* sequence : batch_) {
    sequence->turn.last_step = step_;
    sequence->turn.number = turns_++;
    SequenceRun run;
    run.state = &*sequence->state;
    run.tokens = absl::MakeConstSpan(&sequence->next_token, 1);
    run.logits_from = 0;
    runs_.push_back(run);
  }
  const size_t vocab_size = static_cast<size_t>(model_->config().vocab_size);
  if (logits_.size() < batch_.size() * vocab_size) logits_.resize(batch_.size() * vocab_size);
  const absl::Span<float> logits = absl::MakeSpan(logits_).subspan(0, batch_.size() * vocab_size);
  model_->Forward(runs_, logits);
  for (size_t i = 0; i < batch_.size(); ++i) Continue(*batch_[i], logits.subspan(i * vocab_size, vocab_size));

  const double count = static_cast<double>(batch_.size());
  metrics_->generation_tokens.Increment(count);
  metrics_->step_tokens.Observe(count);
  metrics_->step_sequences.Observe(count);
  metrics_->step_seconds.Observe(absl::ToDoubleSeconds(absl::Now() - start));
  load_->AddTokens(static_cast<int64_t>(batch_.size()));
}

void DecodeEngine::Continue(Sequence& sequence, absl::Span<const float> logits) {
  DecodeCall& call = *sequence.call;
  const SequenceRequest& request = call.request();
  const int64_t position = sequence.state->position();
  const int32_t token =
      sampler_.Sample(logits, request.sampling, sequence.history, request.MaskedIds(sequence.generated), position);
  sequence.next_token = token;
  ++sequence.generated;
  if (sequence.needs_history) sequence.history.AddOutput(token);
  call.CountToken();

  worker::v1::TokenChunk* chunk = sequence.unread.mutable_tokens();
  if (chunk->ids().empty()) chunk->set_position(position);
  chunk->add_ids(token);
  if (request.logprobs) ToProto(ComputeLogprob(logits, token, request.top_logprobs), chunk->add_logprobs());

  const bool stopped = request.IsStop(token);
  if (!stopped && sequence.generated < request.max_new_tokens) {
    Flush(sequence);
    if (sequence.unread.tokens().ids_size() >= options_.max_unread_tokens) {
      FreeState(sequence);
      call.Finish(
          DecodeOutcome::kFailed,
          WithReason(absl::ResourceExhaustedError(absl::StrCat(
                         "the caller reads too slowly: ", sequence.unread.tokens().ids_size(), " tokens wait for it")),
                     "SLOW_READER"));
    }
    return;
  }
  // Before the caller hears of the end, so that it finds the room it left.
  FreeState(sequence);
  call.events().Push(std::move(sequence.unread));
  DecodeEvent done;
  done.mutable_done()->set_reason(stopped ? worker::v1::STOP_TOKEN : worker::v1::LENGTH);
  done.mutable_done()->set_handoff_wait_seconds(call.handoff_wait_seconds());
  call.events().Push(std::move(done));
  call.Finish(stopped ? DecodeOutcome::kStop : DecodeOutcome::kLength, absl::OkStatus());
}

void DecodeEngine::FreeState(Sequence& sequence) {
  sequence.state.reset();
  metrics_->UpdateStateBytes();
}

void DecodeEngine::Flush(Sequence& sequence) {
  DecodeCall::Events& events = sequence.call->events();
  if (events.queued() >= kQueuedEventsWhenBehind) return;
  events.Push(std::move(sequence.unread));
  sequence.unread.Clear();
}

}  // namespace baton
