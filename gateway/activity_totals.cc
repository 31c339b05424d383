#include "gateway/activity_totals.h"

namespace baton {
namespace {

constexpr int64_t ActivityTotals::*kCounts[] = {
    &ActivityTotals::completed,     &ActivityTotals::cancelled, &ActivityTotals::refused,
    &ActivityTotals::rejected,      &ActivityTotals::failed,    &ActivityTotals::prompt_tokens,
    &ActivityTotals::output_tokens, &ActivityTotals::resumes,   &ActivityTotals::retries,
    &ActivityTotals::worker_pauses,
};

void Summarize(const HistogramCounts& counts, v1::LatencySummary* summary) {
  summary->set_count(static_cast<int64_t>(counts.count()));
  summary->set_p50_seconds(counts.Quantile(0.5));
  summary->set_p99_seconds(counts.Quantile(0.99));
}

}  // namespace

void ActivityTotals::Add(const ActivityTotals& other) {
  for (const auto count : kCounts) this->*count += other.*count;
  time_to_first_token.Add(other.time_to_first_token);
  inter_token.Add(other.inter_token);
}

void ActivityTotals::Subtract(const ActivityTotals& earlier) {
  for (const auto count : kCounts) this->*count -= earlier.*count;
  time_to_first_token.Subtract(earlier.time_to_first_token);
  inter_token.Subtract(earlier.inter_token);
}

void ActivityTotals::Describe(double seconds, v1::Activity* activity) const {
  activity->set_seconds(seconds);
  activity->set_completed(completed);
  activity->set_cancelled(cancelled);
  activity->set_refused(refused);
  activity->set_rejected(rejected);
  activity->set_failed(failed);
  activity->set_prompt_tokens(prompt_tokens);
  activity->set_output_tokens(output_tokens);
  activity->set_resumes(resumes);
  activity->set_retries(retries);
  activity->set_worker_pauses(worker_pauses);
  Summarize(time_to_first_token, activity->mutable_time_to_first_token());
  Summarize(inter_token, activity->mutable_inter_token());
}

}  // namespace baton
