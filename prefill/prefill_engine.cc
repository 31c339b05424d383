#include "prefill/prefill_engine.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

PromptSchedulerOptions SchedulerOptions(const PrefillEngineOptions& options) {
  PromptSchedulerOptions scheduler;
  scheduler.step_tokens = options.step_tokens;
  scheduler.step_logit_rows = options.step_logit_rows;
  return scheduler;
}

double MonotonicSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

absl::Status StoppingError() {
  return WithReason(absl::UnavailableError("this prefill worker is shutting down; try another"), "DRAINING");
}

}  // namespace

PrefillEngine::PrefillEngine(const PrefillEngineOptions& options, Model* model, MemoryBudget* budget,
                             PrefillMetrics* metrics, LoadReporter* load)
    : options_(options),
      load_(load),
      cache_(model->MakeStateLayout(static_cast<int>(options.step_tokens)), options.prefix_cache,
             [load](const PrefixHash& hash, bool present) { load->prefixes().Set(hash.Short(), present); }),
      context_(options.handoff),
      scheduler_(SchedulerOptions(options)) {
  context_.model = model;
  context_.layout = cache_.layout();
  context_.cache = &cache_;
  context_.budget = budget;
  context_.metrics = metrics;
  context_.wake = [doorbell = doorbell_] { doorbell->Ring(); };
}

PrefillEngine::~PrefillEngine() { Stop(); }

void PrefillEngine::Start() {
  thread_ = std::thread([this] { Loop(); });
}

void PrefillEngine::Stop() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  doorbell_->Ring();
  if (thread_.joinable()) thread_.join();
}

absl::Status PrefillEngine::Submit(std::shared_ptr<PrefillCall> call) {
  {
    absl::MutexLock lock(&mutex_);
    if (stopping_) return StoppingError();
    const int64_t waiting = scheduled_waiting_ + static_cast<int64_t>(arrivals_.size());
    if (waiting >= options_.max_queue) {
      return WithRetryAfter(
          absl::ResourceExhaustedError(absl::StrCat("this prefill worker has ", waiting, " requests waiting already")),
          RetryDelay(), "QUEUE_FULL");
    }
    arrival_tokens_ += call->prompt.tokens_to_compute();
    arrivals_.push_back(std::move(call));
    PublishQueue();
  }
  doorbell_->Ring();
  return absl::OkStatus();
}

absl::Duration PrefillEngine::RetryDelay() const {
  constexpr absl::Duration kShortest = absl::Milliseconds(100);
  constexpr absl::Duration kLongest = absl::Seconds(30);
  if (tokens_per_second_ <= 0) return absl::Seconds(1);
  // When about half of what waits is done, there is room again.
  const absl::Duration delay = absl::Seconds(static_cast<double>(scheduled_tokens_) / tokens_per_second_ / 2);
  return std::clamp(delay, kShortest, kLongest);
}

void PrefillEngine::Loop() {
  while (TakeArrivals()) {
    EndFinishedJobs();
    const bool computed = Step();
    PublishLoad();
    if (!computed) doorbell_->Wait();
  }
  while (!jobs_.empty()) End(jobs_.begin(), jobs_.begin()->second->Abandon(StoppingError()));
  PublishLoad();
}

bool PrefillEngine::TakeArrivals() {
  std::vector<std::shared_ptr<PrefillCall>> arrivals;
  bool stopping;
  {
    absl::MutexLock lock(&mutex_);
    stopping = stopping_;
    arrivals.swap(arrivals_);
    scheduled_waiting_ += static_cast<int64_t>(arrivals.size());
    scheduled_tokens_ += std::exchange(arrival_tokens_, 0);
  }
  const double now = MonotonicSeconds();
  for (std::shared_ptr<PrefillCall>& call : arrivals) {
    const uint64_t id = next_id_++;
    auto job = std::make_unique<PrefillJob>(id, std::move(call), &context_);
    scheduler_.Add(job->MakeEntry(now));
    jobs_.emplace(id, std::move(job));
  }
  return !stopping;
}

void PrefillEngine::EndFinishedJobs() {
  for (auto next = jobs_.begin(); next != jobs_.end();) {
    const auto job = next++;
    if (const absl::optional<PrefillEnd> end = job->second->Ended()) End(job, *end);
  }
}

void PrefillEngine::End(Jobs::iterator job, const PrefillEnd& end) {
  scheduler_.Remove(job->first);
  job->second->Finish(end);
  jobs_.erase(job);
}

bool PrefillEngine::StartJob(uint64_t id) {
  PrefillJob& job = *jobs_.at(id);
  const absl::Status status = job.Start();
  if (status.ok()) {
    scheduler_.StartAt(id, job.cached_tokens(), job.cuts());
    load_->AddCachedPrompt(job.cached_tokens());
    return true;
  }
  // Requests that could never fit were refused before. If nobody else holds memory either, waiting is no use.
  const bool others =
      std::any_of(jobs_.begin(), jobs_.end(), [](const auto& job) { return job.second->holds_state(); });
  if (!others && context_.budget->used() == 0) {
    job.Fail(WithReason(status, "PREFILL_MEMORY_FULL"));
    doorbell_->Ring();
  }
  return false;
}

bool PrefillEngine::Step() {
  const std::vector<PromptChunk> plan = scheduler_.PlanStep([this](uint64_t id) { return StartJob(id); });
  if (plan.empty()) return false;
  PublishLoad();
  if (options_.step_delay > absl::ZeroDuration()) absl::SleepFor(options_.step_delay);

  const absl::Time begin = absl::Now();
  Compute(plan);
  const double seconds = std::max(absl::ToDoubleSeconds(absl::Now() - begin), 1e-6);

  int64_t tokens = 0;
  for (const PromptChunk& chunk : plan) tokens += chunk.tokens;
  PrefillMetrics& metrics = *context_.metrics;
  metrics.step_seconds.Observe(seconds);
  metrics.step_tokens.Observe(static_cast<double>(tokens));
  metrics.step_sequences.Observe(static_cast<double>(plan.size()));
  metrics.prompt_tokens_computed.Increment(static_cast<double>(tokens));
  load_->AddTokens(tokens);
  load_->AddStep(static_cast<int64_t>(plan.size()));
  load_->AddComputedPrompt(tokens);

  constexpr double kNewStepsWeight = 0.2;
  const double rate = static_cast<double>(tokens) / seconds;
  absl::MutexLock lock(&mutex_);
  tokens_per_second_ =
      tokens_per_second_ == 0 ? rate : (1 - kNewStepsWeight) * tokens_per_second_ + kNewStepsWeight * rate;
  return true;
}

void PrefillEngine::Compute(const std::vector<PromptChunk>& plan) {
  std::vector<SequenceRun> runs;
  runs.reserve(plan.size());
  std::vector<const PromptChunk*> handed_off;
  int64_t rows = 0;
  for (const PromptChunk& chunk : plan) {
    runs.push_back(jobs_.at(chunk.id)->RunFor(chunk));
    rows += chunk.logit_rows;
    if (jobs_.at(chunk.id)->handing_off()) handed_off.push_back(&chunk);
  }
  LayerDone layer_done;
  if (!handed_off.empty()) {
    layer_done = [&](int layer) {
      for (const PromptChunk* chunk : handed_off) jobs_.at(chunk->id)->LayerDone(layer, *chunk);
    };
  }
  const int64_t vocab = context_.model->config().vocab_size;
  if (static_cast<int64_t>(logits_.size()) < rows * vocab) logits_.resize(rows * vocab);
  context_.model->Forward(runs, absl::MakeSpan(logits_).subspan(0, rows * vocab), nullptr, layer_done);

  absl::Span<const float> rest = logits_;
  for (const PromptChunk& chunk : plan) {
    jobs_.at(chunk.id)->TakeLogits(chunk, rest.subspan(0, chunk.logit_rows * vocab));
    rest.remove_prefix(chunk.logit_rows * vocab);
  }
}

void PrefillEngine::PublishLoad() {
  const int64_t running = static_cast<int64_t>(jobs_.size()) - scheduler_.waiting();
  load_->SetRunning(running);
  context_.metrics->requests_running.Set(static_cast<double>(running));
  context_.metrics->UpdateStateBytes();
  context_.metrics->SetPrefixCache(cache_);
  absl::MutexLock lock(&mutex_);
  scheduled_waiting_ = scheduler_.waiting();
  scheduled_tokens_ = scheduler_.queued_tokens();
  PublishQueue();
}

void PrefillEngine::PublishQueue() {
  const int64_t waiting = scheduled_waiting_ + static_cast<int64_t>(arrivals_.size());
  const int64_t tokens = scheduled_tokens_ + arrival_tokens_;
  load_->SetQueued(waiting);
  load_->SetQueuedTokens(tokens);
  context_.metrics->requests_waiting.Set(static_cast<double>(waiting));
  context_.metrics->queued_tokens.Set(static_cast<double>(tokens));
}

}  // namespace baton
