// A second attempt beside one that is late with its first token, and the race between them. It is over with the first
// thing that reaches the client (a token, or a score of its prompt) or with the first of the two to fail; until then
// both are branches with all choices, hedge_ and the first one. Whoever goes on is the first branch from then on.
#include <algorithm>
#include <utility>

#include "gateway/generation_session.h"
#include "gateway/saturating.h"

namespace baton {
namespace {

// A prompt may take twice as long as it ought to: shorter ones get half of each step (prefill/prompt_scheduler.h).
constexpr int kSlack = 2;
// Where nobody can take it, we look again so much later at the earliest.
constexpr std::chrono::milliseconds kLookAgain{100};

}  // namespace

void GenerationSession::WatchForHedge(Branch& branch, Clock::time_point when) {
  branch.hedge_timer = InAttemptAt(when, branch, &GenerationSession::OnHedgeTimer);
}

Clock::time_point GenerationSession::LateAt(const Attempt& attempt) const {
  const Clock::duration after = *environment_.hedge.after;
  // Reserving takes no time, nor does a prompt that a decode worker computes.
  if (!attempt.prompt_begun.has_value()) return attempt.last_event + after;
  if (attempt.local()) return *attempt.prompt_begun + after;
  const int64_t tokens = SaturatingAdd(attempt.route.tokens_before, attempt.route.tokens_to_compute);
  const absl::optional<Clock::duration> expected = environment_.router->PromptTime(attempt.prefill_endpoint, tokens);
  // While nobody has shown what a prompt takes, none is late.
  if (!expected.has_value()) return Clock::now() + after;
  return *attempt.prompt_begun + after + kSlack * *expected;
}

void GenerationSession::OnHedgeTimer(Branch& branch) {
  branch.hedge_timer.reset();
  // A worker that sends scores gets on.
  if (hedged_ || choices_->has_first() || prompt_scores_->relayed()) return;
  const Clock::time_point late = LateAt(branch.attempt);
  if (Clock::now() < late) return WatchForHedge(branch, late);
  const char* const withheld = BeginHedge(branch);
  if (withheld == nullptr) return;
  if (!hedge_withheld_) plan_.model->metrics->CountHedgeWithheld(withheld);
  hedge_withheld_ = true;
  WatchForHedge(branch, Clock::now() + std::max<Clock::duration>(*environment_.hedge.after, kLookAgain));
}

const char* GenerationSession::BeginHedge(Branch& first) {
  // Who waits has nobody at all.
  if (environment_.queue->Waits(plan_.model->fingerprint)) return "queue";
  Attempt& attempt = first.attempt;
  // A decode worker that has reserved is not what the request waits for, unless it computes the prompt.
  const bool decode_is_late = !attempt.decode_endpoint.empty() && (!attempt.reserved || attempt.local());
  Beside running;
  running.prefill = attempt.prefill_endpoint;
  running.decode = attempt.decode_endpoint;
  running.other_prefill = !decode_is_late;
  // One worker keeps a turn once.
  running.other_decode = decode_is_late || plan_.keep.has_value();
  Demand demand = DemandOf(plan_);
  if (first.wants_prefill_worker) demand.may_be_local = false;
  absl::optional<Route> route = environment_.router->PlaceBeside(demand, first.avoid, running);
  if (!route.has_value()) return "workers";
  if (!environment_.hedge_budget->Take()) return "budget";
  hedged_ = true;
  // Later requests rather go elsewhere, until it is heard of.
  (decode_is_late ? attempt.route.decode : attempt.route.prefill).ReportLate();
  branches_.push_back(std::make_unique<Branch>());
  hedge_ = branches_.back().get();
  hedge_->choices = first.choices;
  hedge_->wants_prefill_worker = first.wants_prefill_worker;
  BeginAttempt(*hedge_, *std::move(route));
  return nullptr;
}

void GenerationSession::WinRace(Branch& winner) {
  Branch& loser = Rival(winner);
  winner.attempt.span.Set("baton.race", "won");
  loser.attempt.span.Set("baton.race", "lost");
  EndRace(&winner == hedge_ ? "won" : "lost", winner, loser);
}

void GenerationSession::LeaveRace(Branch& failed, bool counts) {
  Branch& other = Rival(failed);
  if (failed.attempt.local()) other.wants_prefill_worker = true;
  other.avoid.insert(failed.avoid.begin(), failed.avoid.end());
  const bool hedge_failed = &failed == hedge_;
  // The attempt has failed, and the next one runs already. A hedge's failure is nothing to the request.
  if (!hedge_failed && counts) {
    ++failures_;
    ++other.failures;
  }
  if (!hedge_failed) {
    other.tries = failed.tries + 1;
    other.failures += failed.failures;
    other.failing_since = failed.failing_since.has_value() ? failed.failing_since : Clock::now();
  }
  EndRace(hedge_failed ? "failed" : "took_over", other, failed);
}

void GenerationSession::EndRace(const char* result, Branch& left, Branch& dropped) {
  CountHedge(result);
  if (branches_.front().get() != &left) std::swap(branches_.front(), branches_.back());
  DropAttempt(dropped);
  dropped.choices.clear();
}

void GenerationSession::CountHedge(const char* result) {
  hedge_ = nullptr;
  record_.hedge = result;
  plan_.model->metrics->CountHedge(result);
}

void GenerationSession::Broken(Branch& branch, const absl::Status& status) {
  if (hedge_ == nullptr) return Fail(status);
  branch.attempt.span.Fail(status.message());
  branch.avoid.insert({branch.attempt.prefill_endpoint, branch.attempt.decode_endpoint});
  LeaveRace(branch, /*counts=*/true);
}

absl::Status GenerationSession::CheckFirst(const Branch& branch, const worker::v1::FirstToken& first) const {
  std::vector<ChoiceEvent> unused;
  const absl::Status status = Choices(&plan_).AddFirst(first, branch.choices, &unused);
  return status.ok() ? prompt_scores_->CheckComplete() : status;
}

void GenerationSession::NotePromptTime(const Branch& branch, const worker::v1::FirstToken& first) const {
  const Attempt& attempt = branch.attempt;
  if (!environment_.hedge.after.has_value() || attempt.local() || !attempt.prompt_begun.has_value()) return;
  // What the gateway did not know to be cached was not computed either.
  const int64_t uncached = static_cast<int64_t>(plan_.prompt.size()) - first.cached_tokens();
  const int64_t computed =
      branch.resumed ? attempt.route.tokens_to_compute : std::min(attempt.route.tokens_to_compute, uncached);
  environment_.router->NotePromptTime(attempt.prefill_endpoint, computed, Clock::now() - *attempt.prompt_begun);
}

}  // namespace baton
