#include "bench/serve_results.h"

#include <algorithm>
#include <limits>
#include <utility>

namespace baton {

ServeResults::ServeResults(const Workload& workload)
    : begin_(workload.measure_begin),
      arrivals_end_(workload.measure_end),
      answers_end_(workload.by_count ? std::numeric_limits<double>::infinity() : workload.measure_end) {}

void ServeResults::AddTokens(double now, int64_t count) {
  if (now < begin_ || now > answers_end_) return;
  absl::MutexLock lock(&mutex_);
  tokens_in_window_ += count;
}

void ServeResults::Add(RequestOutcome outcome) {
  absl::MutexLock lock(&mutex_);
  if (!outcome.interrupted) {
    if (outcome.error.empty()) {
      completions_.push_back(outcome.ended_at);
    } else {
      ++failed_;
    }
  }
  if (outcome.item.measured) measured_.push_back(std::move(outcome));
}

ServeResults::Progress ServeResults::progress() const {
  absl::MutexLock lock(&mutex_);
  return {static_cast<int64_t>(completions_.size()), failed_};
}

ServeReport ServeResults::Report(double end, bool interrupted, const ServiceBounds& bounds) const {
  absl::MutexLock lock(&mutex_);
  ServeReport report;
  // The last answer may come before the last moment in which a request could have arrived.
  if (!interrupted) end = std::max(end, arrivals_end_);
  const double answers_end = std::min(end, answers_end_);
  report.arrival_window = std::max(0.0, std::min(end, arrivals_end_) - begin_);
  report.answer_window = std::max(0.0, answers_end - begin_);

  std::vector<double> first_token;
  std::vector<double> inter_token;
  std::vector<double> per_token;
  std::vector<double> end_to_end;
  std::vector<double> send_delay;
  for (const RequestOutcome& outcome : measured_) {
    ++report.arrived;
    if (outcome.sent) {
      report.prompt_tokens += outcome.item.prompt_tokens;
      send_delay.push_back(outcome.sent_at - outcome.item.arrival);
    }
    report.output_tokens += outcome.tokens;
    double ttft = 0;
    if (outcome.tokens > 0) {
      ttft = outcome.first_token_at - outcome.item.arrival;
      first_token.push_back(ttft);
    }
    inter_token.insert(inter_token.end(), outcome.gaps.begin(), outcome.gaps.end());
    if (outcome.interrupted) {
      ++report.unfinished;
      continue;
    }
    if (!outcome.error.empty()) {
      ++report.failed;
      ServeReport::Error& error = report.errors[outcome.error];
      if (error.count++ == 0) error.example = outcome.error_message;
      continue;
    }
    ++report.completed;
    end_to_end.push_back(outcome.ended_at - outcome.item.arrival);
    if (outcome.tokens < outcome.item.output_tokens) ++report.short_outputs;
    double time_per_token = 0;
    if (outcome.tokens > 1) {
      time_per_token = (outcome.last_token_at - outcome.first_token_at) / static_cast<double>(outcome.tokens - 1);
      per_token.push_back(time_per_token);
    }
    const bool in_time = ttft <= bounds.time_to_first_token && time_per_token <= bounds.inter_token;
    if (outcome.tokens > 0 && in_time) ++report.good;
  }
  report.time_to_first_token = Summarize(std::move(first_token));
  report.inter_token = Summarize(std::move(inter_token));
  report.time_per_output_token = Summarize(std::move(per_token));
  report.end_to_end = Summarize(std::move(end_to_end));
  report.send_delay = Summarize(std::move(send_delay));
  if (report.arrival_window > 0) report.offered_rate = static_cast<double>(report.arrived) / report.arrival_window;
  if (report.answer_window > 0) {
    const int64_t completed = std::count_if(completions_.begin(), completions_.end(),
                                            [&](double at) { return at >= begin_ && at <= answers_end; });
    report.completed_rate = static_cast<double>(completed) / report.answer_window;
    report.output_tokens_rate = static_cast<double>(tokens_in_window_) / report.answer_window;
    report.goodput = static_cast<double>(report.good) / report.answer_window;
  }
  return report;
}

}  // namespace baton
