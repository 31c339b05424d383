#include "decode/engine.h"

#include <algorithm>
#include <iterator>
#include <map>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/types/optional.h"
#include "common/base/status_macros.h"
#include "common/rpc/status_mapping.h"
#include "decode/active_sequence.h"
#include "decode/turn.h"

namespace baton {
namespace {

using worker::v1::DecodeEvent;
using worker::v1::DoneReason;

// With this many events waiting to be written, a reader is behind.
constexpr size_t kQueuedEventsWhenBehind = 2;
constexpr absl::Duration kMemoryPoll = absl::Milliseconds(10);
// A copy takes the engine as long as copying the recurrent layers' states and a page of each other layer. With many
// sequences that began together, some wait for the next step.
constexpr int kMostCheckpointsInStep = 2;

}  // namespace

DecodeEngine::DecodeEngine(Model* model, const DecodeEngineOptions& options, MemoryBudget* budget,
                           DecodeMetrics* metrics, LoadReporter* load, DecodeEngineLinks links)
    : model_(model), options_(options), budget_(budget), metrics_(metrics), load_(load), links_(std::move(links)) {
  BATON_CHECK(options.max_batch >= 1 && options.max_unread_tokens >= 1 && options.reserve_output >= 0);
  BATON_CHECK(options.local_prefill_chunk >= 0);
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
  spiller_.reset();
}

void DecodeEngine::Add(std::shared_ptr<DecodeCall> call, std::vector<SampleStart> samples) {
  BATON_CHECK(!samples.empty());
  absl::MutexLock lock(&mutex_);
  for (auto& sequence : MakeSequences(std::move(call), std::move(samples), &next_id_)) {
    arrivals_.push_back(std::move(sequence));
  }
}

std::vector<std::unique_ptr<ActiveSequence>> DecodeEngine::MakeSequences(std::shared_ptr<DecodeCall> call,
                                                                         std::vector<SampleStart> samples,
                                                                         uint64_t* next_id) {
  const int64_t tokens = static_cast<int64_t>(call->request().tokens.size());
  const auto request = std::make_shared<ActiveRequest>(std::move(call), static_cast<int>(samples.size()));
  std::vector<std::unique_ptr<ActiveSequence>> sequences;
  for (SampleStart& start : samples) {
    BATON_CHECK(start.state.position() == tokens);
    sequences.push_back(std::make_unique<ActiveSequence>((*next_id)++, request, start.sample, std::move(start.state),
                                                         start.first_token));
  }
  return sequences;
}

void DecodeEngine::Join(std::unique_ptr<ActiveSequence> sequence) {
  const SequenceRequest& request = sequence->request->call->request();
  sequence->turn = {.last_step = step_, .priority = request.priority, .number = turns_++};
  if (links_.checkpoints != nullptr && !request.standbys.empty()) {
    sequence->checkpoints = links_.checkpoints->Begin(request.request_id, request.standbys, sequence->generated);
  }
  sequences_.push_back(std::move(sequence));
}

void DecodeEngine::Loop() {
  while (AdmitNew()) {
    DropEnded();
    if (LeftStates* const left = left_.load(std::memory_order_acquire)) {
      LeaveSequences(*left);
      continue;
    }
    if (options_.reserve_output > 0) FindRoom();
    SelectBatch();
    SelectPrompts();
    if (!batch_.empty() || !prompt_batch_.empty()) Step();
  }
  const absl::Status stopping = WithReason(absl::UnavailableError("the decode worker is stopping"), "DRAINING");
  for (const auto& sequence : sequences_) sequence->request->call->Finish(DecodeOutcome::kFailed, stopping);
  for (const LocalPrompt& prompt : prompts_) prompt.call->Finish(DecodeOutcome::kFailed, stopping);
  DropEnded();
}

bool DecodeEngine::AdmitNew() {
  const bool someone_waits =
      std::any_of(sequences_.begin(), sequences_.end(), [](const auto& sequence) { return !sequence->runnable(); });
  absl::MutexLock lock(&mutex_);
  can_step_ = !prompts_.empty() || std::any_of(sequences_.begin(), sequences_.end(), [](const auto& sequence) {
    return sequence->runnable() || sequence->phase == ActiveSequence::Phase::kEnded;
  });
  // Nobody tells when memory becomes free or a call that waits for it ends.
  mutex_.AwaitWithTimeout(absl::Condition(this, &DecodeEngine::HasWork),
                          someone_waits ? kMemoryPoll : absl::InfiniteDuration());
  moves_done_ = false;
  for (auto& sequence : arrivals_) Join(std::move(sequence));
  arrivals_.clear();
  AdmitPrompts();
  return !stopping_;
}

void DecodeEngine::DropEnded() {
  const auto ended = [this](const std::unique_ptr<ActiveSequence>& sequence) {
    if (sequence->phase == ActiveSequence::Phase::kEnded) return true;
    ActiveRequest& request = *sequence->request;
    if (request.call->over()) return true;
    const DecodeCall::Wish wish = request.call->wish(sequence->sample);
    if (wish == DecodeCall::Wish::kGoOn) return false;
    if (wish == DecodeCall::Wish::kComplete) {
      End(*sequence, worker::v1::CUT_OFF);
      Flush(request);
      return true;
    }
    request.call->CountSample(DecodeOutcome::kCancelled);
    if (--request.live == 0) {
      // The ends of others may not have been told yet.
      if (request.unread.has_progress()) request.call->events().Push(request.TakeUnread());
      request.call->Finish(DecodeOutcome::kCancelled, absl::OkStatus());
    }
    return true;
  };
  const auto first = std::remove_if(sequences_.begin(), sequences_.end(), ended);
  if (first != sequences_.end()) {
    sequences_.erase(first, sequences_.end());
    metrics_->UpdateStateBytes();
  }
  DropEndedPrompts();
  ReportRunning();
}

void DecodeEngine::LeaveSequences(LeftStates& left) {
  std::map<ActiveRequest*, DecodeEvent> leaving;
  const absl::Status status =
      WithReason(absl::UnavailableError("the decode worker is shutting down; go on elsewhere"), "DRAINING");
  // Nothing has been told of these.
  for (const LocalPrompt& prompt : prompts_) prompt.call->Finish(DecodeOutcome::kLeft, status);
  for (const auto& sequence : sequences_) {
    if (sequence->phase == ActiveSequence::Phase::kEnded) continue;
    DecodeEvent& event = leaving[sequence->request.get()];
    event.mutable_leaving();
    if (sequence->phase == ActiveSequence::Phase::kRunning) {
      worker::v1::LeftSample* const sample = event.mutable_leaving()->add_samples();
      sample->set_sample(sequence->sample);
      *sample->mutable_key() = left.Leave(*std::move(sequence->state));
      sequence->state.reset();
    }
    sequence->phase = ActiveSequence::Phase::kEnded;
  }
  for (auto& [request, event] : leaving) {
    DecodeCall& call = *request->call;
    if (request->unread.has_progress()) call.events().Push(request->TakeUnread());
    call.events().Push(std::move(event));
    call.Finish(DecodeOutcome::kLeft, status);
  }
  DropEnded();
}

void DecodeEngine::ReportRunning() {
  const int64_t running = static_cast<int64_t>(sequences_.size() + prompts_.size());
  load_->SetRunning(running);
  metrics_->requests_running.Set(static_cast<double>(running));
}

void DecodeEngine::SelectBatch() {
  batch_.clear();
  for (const auto& sequence : sequences_) {
    if (sequence->runnable()) batch_.push_back(sequence.get());
  }
  const size_t limit = static_cast<size_t>(options_.max_batch);
  if (batch_.size() <= limit) return;
  std::partial_sort(batch_.begin(), batch_.begin() + static_cast<int64_t>(limit), batch_.end(),
                    [](const ActiveSequence* a, const ActiveSequence* b) { return GoesBefore(a->turn, b->turn); });
  batch_.resize(limit);
}

void DecodeEngine::Step() {
  if (options_.step_delay > absl::ZeroDuration()) absl::SleepFor(options_.step_delay);
  const absl::Time start = absl::Now();
  ++step_;
  checkpoints_in_step_ = 0;
  runs_.clear();
  for (ActiveSequence* sequence : batch_) {
    sequence->turn.last_step = step_;
    sequence->turn.number = turns_++;
    ++sequence->request->in_step;
    SequenceRun run;
    run.state = &*sequence->state;
    run.tokens = absl::MakeConstSpan(&sequence->next_token, 1);
    run.logits_from = 0;
    runs_.push_back(run);
  }
  int64_t tokens = static_cast<int64_t>(batch_.size());
  size_t rows = batch_.size();
  for (LocalPrompt* prompt : prompt_batch_) {
    runs_.push_back(prompt->Run());
    tokens += prompt->in_step;
    if (prompt->completes()) ++rows;
  }
  const size_t vocab_size = static_cast<size_t>(model_->config().vocab_size);
  if (logits_.size() < rows * vocab_size) logits_.resize(rows * vocab_size);
  const absl::Span<float> logits = absl::MakeSpan(logits_).subspan(0, rows * vocab_size);
  model_->Forward(runs_, logits);
  for (size_t i = 0; i < batch_.size(); ++i) Continue(*batch_[i], logits.subspan(i * vocab_size, vocab_size));

  metrics_->generation_tokens.Increment(static_cast<double>(batch_.size()));
  metrics_->step_tokens.Observe(static_cast<double>(tokens));
  metrics_->step_sequences.Observe(static_cast<double>(runs_.size()));
  load_->AddTokens(static_cast<int64_t>(batch_.size()));
  load_->AddStep(static_cast<int64_t>(runs_.size()));
  ContinuePrompts(logits.subspan(batch_.size() * vocab_size));
  metrics_->step_seconds.Observe(absl::ToDoubleSeconds(absl::Now() - start));
}

void DecodeEngine::Continue(ActiveSequence& sequence, absl::Span<const float> logits) {
  ActiveRequest& request = *sequence.request;
  DecodeCall& call = *request.call;
  const SequenceRequest& asked = call.request();
  const int64_t position = sequence.state->position();
  request.sampling.seed = asked.seed(sequence.sample);
  const int32_t token =
      sampler_.Sample(logits, request.sampling, sequence.history, asked.MaskedIds(sequence.generated), position);
  sequence.next_token = token;
  ++sequence.generated;
  if (sequence.needs_history) sequence.history.AddOutput(token);
  if (!sequence.output.empty()) sequence.output.push_back(token);
  call.CountToken();

  worker::v1::TokenChunk* chunk = request.Chunk(sequence.sample, position);
  chunk->add_ids(token);
  if (asked.logprobs) ToProto(ComputeLogprob(logits, token, asked.top_logprobs), chunk->add_logprobs());
  ++request.unread_tokens;

  if (const absl::optional<DoneReason> reason = call.sample_end().Push(token, sequence.generated)) {
    End(sequence, *reason);
  } else if (sequence.checkpoints) {
    Checkpoint(sequence);
  }
  if (--request.in_step == 0) Flush(request);
}

void DecodeEngine::Checkpoint(ActiveSequence& sequence) {
  CheckpointLease& series = sequence.checkpoints;
  if (series->TakeLanded()) {
    sequence.state->ReclaimPages();
    metrics_->UpdateStateBytes();
  }
  CommittedCheckpoint committed;
  if (series->TakeCommitted(&committed)) {
    worker::v1::Progress* const progress = sequence.request->unread.mutable_progress();
    const auto older = std::find_if(progress->mutable_checkpoints()->begin(), progress->mutable_checkpoints()->end(),
                                    [&](const auto& told) { return told.sample() == sequence.sample; });
    worker::v1::StateCheckpoint* const told =
        older != progress->mutable_checkpoints()->end() ? &*older : progress->add_checkpoints();
    told->set_sample(sequence.sample);
    told->set_position(committed.position);
    *told->mutable_key() = series->key();
    told->set_standby(committed.standby);
  }
  if (!series->Due(sequence.generated) || checkpoints_in_step_ == kMostCheckpointsInStep) return;
  // Nobody is to wait on disk for the sake of a copy.
  if (short_of_memory()) return links_.checkpoints->Skip(series, sequence.generated);
  absl::StatusOr<SequenceState> copy = sequence.state->Fork(*budget_, sequence.state->position());
  if (!copy.ok()) return links_.checkpoints->Skip(series, sequence.generated);
  ++checkpoints_in_step_;
  metrics_->UpdateStateBytes();
  links_.checkpoints->Send(series, sequence.generated, *std::move(copy), sequence.next_token);
}

absl::optional<absl::Time> DecodeEngine::Keep(ActiveSequence& sequence, worker::v1::DoneReason reason) {
  const SequenceRequest& asked = sequence.request->call->request();
  if (asked.keep_id.empty() || links_.sessions == nullptr) return absl::nullopt;
  // It is on disk: whoever cuts it off wants its end now.
  if (!sequence.state.has_value()) return absl::nullopt;
  std::vector<int32_t> tokens = asked.tokens;
  tokens.insert(tokens.end(), sequence.output.begin(), sequence.output.end());
  if (reason == worker::v1::STOP_TOKEN) tokens.pop_back();
  return links_.sessions->Keep({asked.keep_id, asked.keep_identity}, std::move(tokens), *std::move(sequence.state));
}

void DecodeEngine::End(ActiveSequence& sequence, worker::v1::DoneReason reason) {
  ActiveRequest& request = *sequence.request;
  const absl::optional<absl::Time> kept_until = Keep(sequence, reason);
  // Before the caller hears of the end, so that it finds the room it left.
  sequence.state.reset();
  sequence.phase = ActiveSequence::Phase::kEnded;
  metrics_->UpdateStateBytes();
  --request.live;
  request.call->CountSample(OutcomeOf(reason));
  worker::v1::SampleDone* done = request.unread.mutable_progress()->add_done();
  done->set_reason(reason);
  done->set_handoff_wait_seconds(request.call->handoff_wait_seconds());
  done->set_sample(sequence.sample);
  if (kept_until.has_value()) done->set_kept_until_ms(absl::ToUnixMillis(*kept_until));
}

void DecodeEngine::Flush(ActiveRequest& request) {
  DecodeCall& call = *request.call;
  DecodeCall::Events& events = call.events();
  if (request.live == 0) {
    const auto& ends = request.unread.progress().done();
    const DecodeOutcome outcome = OutcomeOf(ends[ends.size() - 1].reason());
    events.Push(request.TakeUnread());
    call.Finish(outcome, absl::OkStatus());
    return;
  }
  if (events.queued() < kQueuedEventsWhenBehind) {
    events.Push(request.TakeUnread());
    return;
  }
  if (request.unread_tokens < int64_t{options_.max_unread_tokens} * call.request().samples()) return;
  call.Finish(DecodeOutcome::kFailed,
              WithReason(absl::ResourceExhaustedError(absl::StrCat(
                             "the caller reads too slowly: ", request.unread_tokens, " tokens wait for it")),
                         "SLOW_READER"));
}

}  // namespace baton
