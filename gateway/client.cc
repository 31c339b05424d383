#include "gateway/client.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

constexpr double kSecondsPerMinute = 60;
// When a running request will end is not known.
constexpr absl::Duration kConcurrencyRetry = absl::Seconds(1);

absl::Duration ToAbsl(Clock::duration duration) { return absl::FromChrono(duration); }

}  // namespace

void MinuteBucket::Fill(Clock::time_point now) {
  if (now <= filled_at_) return;
  level_ = std::min(per_minute_, level_ + per_minute_ * SecondsBetween(filled_at_, now) / kSecondsPerMinute);
  filled_at_ = now;
}

void MinuteBucket::SetPerMinute(int64_t per_minute, Clock::time_point now) {
  if (per_minute_ > 0) Fill(now);
  const bool was_endless = per_minute_ == 0;
  per_minute_ = static_cast<double>(per_minute);
  level_ = was_endless ? per_minute_ : std::min(level_, per_minute_);
  filled_at_ = now;
}

Clock::duration MinuteBucket::Wait(double amount, Clock::time_point now) {
  if (per_minute_ == 0) return Clock::duration::zero();
  Fill(now);
  if (level_ >= amount) return Clock::duration::zero();
  const std::chrono::duration<double> seconds((amount - level_) * kSecondsPerMinute / per_minute_);
  return std::chrono::ceil<std::chrono::milliseconds>(seconds);
}

void MinuteBucket::Take(double amount, Clock::time_point now) {
  if (per_minute_ == 0) return;
  Fill(now);
  level_ -= amount;
}

Client::Client(std::string name, ClientLimits limits, ClientMetrics* metrics, Clock::time_point now)
    : name_(std::move(name)), metrics_(metrics) {
  SetLimits(std::move(limits), now);
}

std::shared_ptr<const ClientLimits> Client::limits() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return limits_;
}

void Client::SetLimits(ClientLimits limits, Clock::time_point now) {
  std::lock_guard<std::mutex> lock(mutex_);
  requests_.SetPerMinute(limits.requests_per_minute, now);
  tokens_.SetPerMinute(limits.tokens_per_minute, now);
  limits_ = std::make_shared<const ClientLimits>(std::move(limits));
}

absl::StatusOr<std::shared_ptr<ClientPass>> Client::Admit(Clock::time_point now) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (limits_->concurrent > 0 && running_ >= limits_->concurrent) {
    return WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat("client ", name_, " has ", running_,
                                                                    " requests running, which is all its key allows "
                                                                    "at a time")),
                          kConcurrencyRetry, "CLIENT_CONCURRENCY");
  }
  if (const Clock::duration wait = requests_.Wait(1, now); wait > Clock::duration::zero()) {
    return WithRetryAfter(
        absl::ResourceExhaustedError(
            absl::StrCat("client ", name_, " has used up its ", limits_->requests_per_minute, " requests a minute")),
        ToAbsl(wait), "CLIENT_REQUEST_RATE");
  }
  if (const Clock::duration wait = tokens_.Wait(1, now); wait > Clock::duration::zero()) {
    return WithRetryAfter(absl::ResourceExhaustedError(absl::StrCat("client ", name_, " has used up its ",
                                                                    limits_->tokens_per_minute, " tokens a minute")),
                          ToAbsl(wait), "CLIENT_TOKEN_RATE");
  }
  requests_.Take(1, now);
  ++running_;
  return std::make_shared<ClientPass>(shared_from_this());
}

void Client::Leave(int64_t tokens) {
  std::lock_guard<std::mutex> lock(mutex_);
  --running_;
  tokens_.Take(static_cast<double>(tokens), Clock::now());
}

}  // namespace baton
