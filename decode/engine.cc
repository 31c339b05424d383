#include "decode/engine.h"

#include <algorithm>
#include <iterator>
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

using worker::v1::DecodeEvent;

// With this many events waiting to be written, a reader is behind.
constexpr size_t kQueuedEventsWhenBehind = 2;

bool HasPenalties(const SamplingParams& params) {
  return params.repetition_penalty != 1.0f || params.presence_penalty != 0.0f || params.frequency_penalty != 0.0f;
}

}  // namespace

// What the samples of one call share.
struct DecodeEngine::Request {
  Request(std::shared_ptr<DecodeCall> call_in, int live_in)
      : call(std::move(call_in)), sampling(call->request().sampling), live(live_in) {
    chunk_of.resize(static_cast<size_t>(call->request().samples()), kNoChunk);
  }

  static constexpr int kNoChunk = -1;

  // The chunk of `unread` that this sample's next token belongs to.
  worker::v1::TokenChunk* Chunk(int sample, int64_t position) {
    worker::v1::Progress* progress = unread.mutable_progress();
    int& chunk = chunk_of[static_cast<size_t>(sample)];
    if (chunk == kNoChunk) {
      chunk = progress->tokens_size();
      progress->add_tokens()->set_position(position);
      progress->mutable_tokens(chunk)->set_sample(sample);
    }
    return progress->mutable_tokens(chunk);
  }

  DecodeEvent TakeUnread() {
    DecodeEvent taken = std::move(unread);
    unread.Clear();
    unread_tokens = 0;
    std::fill(chunk_of.begin(), chunk_of.end(), kNoChunk);
    return taken;
  }

  const std::shared_ptr<DecodeCall> call;
  // Its seed is that of the sample just drawn: a copy for each would be large (allowed ids).
  SamplingParams sampling;
  // Samples that have not ended.
  int live;
  // Of this step, not sampled yet.
  int in_step = 0;
  // Sampled or ended, and not pushed yet.
  DecodeEvent unread;
  int64_t unread_tokens = 0;
  std::vector<int> chunk_of;
};

struct DecodeEngine::Sequence {
  Sequence(std::shared_ptr<Request> request_in, SampleStart start)
      : request(std::move(request_in)),
        sample(start.sample),
        state(std::move(start.state)),
        next_token(start.first_token) {
    const SequenceRequest& asked = request->call->request();
    generated = asked.generated_tokens + 1;
    needs_history = HasPenalties(asked.sampling);
    if (needs_history) {
      history = asked.MakeHistory();
      history.AddOutput(next_token);
    }
    if (!asked.keep_id.empty()) output.push_back(next_token);
  }

  const std::shared_ptr<Request> request;
  const int sample;
  // Absent once the sequence has ended.
  absl::optional<SequenceState> state;
  // The token at state->position(), not consumed yet.
  int32_t next_token;
  // Tokens generated so far, next_token included.
  int64_t generated;
  bool needs_history;
  TokenHistory history;
  // Sampled here and before, from the first token on, when the sequence is to be kept.
  std::vector<int32_t> output;
  Turn turn;
};

DecodeEngine::DecodeEngine(Model* model, const DecodeEngineOptions& options, DecodeMetrics* metrics, LoadReporter* load,
                           Sessions* sessions)
    : model_(model), options_(options), metrics_(metrics), load_(load), sessions_(sessions) {
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

void DecodeEngine::Add(std::shared_ptr<DecodeCall> call, std::vector<SampleStart> samples) {
  BATON_CHECK(!samples.empty());
  const int64_t tokens = static_cast<int64_t>(call->request().tokens.size());
  const auto request = std::make_shared<Request>(std::move(call), static_cast<int>(samples.size()));
  std::vector<std::unique_ptr<Sequence>> sequences;
  for (SampleStart& start : samples) {
    BATON_CHECK(start.state.position() == tokens);
    sequences.push_back(std::make_unique<Sequence>(request, std::move(start)));
  }
  absl::MutexLock lock(&mutex_);
  std::move(sequences.begin(), sequences.end(), std::back_inserter(arrivals_));
}

void DecodeEngine::Loop() {
  while (AdmitNew()) {
    DropEnded();
    if (sequences_.empty()) continue;
    SelectBatch();
    Step();
  }
  for (const auto& sequence : sequences_) {
    sequence->request->call->Finish(DecodeOutcome::kFailed,
                                    WithReason(absl::UnavailableError("the decode worker is stopping"), "DRAINING"));
  }
  DropEnded();
}

bool DecodeEngine::AdmitNew() {
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(this, &DecodeEngine::HasWork));
  for (auto& sequence : arrivals_) {
    sequence->turn = {.last_step = step_, .priority = sequence->request->call->request().priority, .number = turns_++};
    sequences_.push_back(std::move(sequence));
  }
  arrivals_.clear();
  return !stopping_;
}

void DecodeEngine::DropEnded() {
  const auto ended = [](const std::unique_ptr<Sequence>& sequence) {
    if (!sequence->state.has_value()) return true;
    Request& request = *sequence->request;
    if (request.call->over()) return true;
    if (!request.call->abandoned(sequence->sample)) return false;
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
    ++sequence->request->in_step;
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
  Request& request = *sequence.request;
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

  if (asked.IsStop(token)) {
    End(sequence, worker::v1::STOP_TOKEN);
  } else if (sequence.generated >= asked.max_new_tokens) {
    End(sequence, worker::v1::LENGTH);
  }
  if (--request.in_step == 0) Flush(request);
}

absl::optional<absl::Time> DecodeEngine::Keep(Sequence& sequence, worker::v1::DoneReason reason) {
  const SequenceRequest& asked = sequence.request->call->request();
  if (asked.keep_id.empty() || sessions_ == nullptr) return absl::nullopt;
  std::vector<int32_t> tokens = asked.tokens;
  tokens.insert(tokens.end(), sequence.output.begin(), sequence.output.end());
  if (reason == worker::v1::STOP_TOKEN) tokens.pop_back();
  return sessions_->Keep({asked.keep_id, asked.keep_identity}, std::move(tokens), *std::move(sequence.state));
}

void DecodeEngine::End(Sequence& sequence, worker::v1::DoneReason reason) {
  Request& request = *sequence.request;
  const absl::optional<absl::Time> kept_until = Keep(sequence, reason);
  // Before the caller hears of the end, so that it finds the room it left.
  sequence.state.reset();
  metrics_->UpdateStateBytes();
  --request.live;
  const bool stopped = reason == worker::v1::STOP_TOKEN;
  request.call->CountSample(stopped ? DecodeOutcome::kStop : DecodeOutcome::kLength);
  worker::v1::SampleDone* done = request.unread.mutable_progress()->add_done();
  done->set_reason(reason);
  done->set_handoff_wait_seconds(request.call->handoff_wait_seconds());
  done->set_sample(sequence.sample);
  if (kept_until.has_value()) done->set_kept_until_ms(absl::ToUnixMillis(*kept_until));
}

void DecodeEngine::Flush(Request& request) {
  DecodeCall& call = *request.call;
  DecodeCall::Events& events = call.events();
  if (request.live == 0) {
    const auto& ends = request.unread.progress().done();
    const bool stopped = ends[ends.size() - 1].reason() == worker::v1::STOP_TOKEN;
    events.Push(request.TakeUnread());
    call.Finish(stopped ? DecodeOutcome::kStop : DecodeOutcome::kLength, absl::OkStatus());
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
