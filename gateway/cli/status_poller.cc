#include "gateway/cli/status_poller.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <cstdint>
#include <utility>

#include "absl/time/clock.h"
#include "common/base/status_macros.h"

namespace baton::cli {

StatusPoller::StatusPoller(Ask ask, const StatusPolling& polling)
    : ask_(std::move(ask)),
      event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      polling_(polling),
      last_asked_(absl::Now()) {
  BATON_CHECK(event_ >= 0);
  thread_ = std::thread([this] { Loop(); });
}

StatusPoller::~StatusPoller() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    changed_ = true;
  }
  thread_.join();
  close(event_);
}

void StatusPoller::Set(const StatusPolling& polling) {
  absl::MutexLock lock(&mutex_);
  const bool other_figures = polling.window_seconds != polling_.window_seconds || (polling_.paused && !polling.paused);
  polling_ = polling;
  if (other_figures) last_asked_ = absl::InfinitePast();
  changed_ = true;
}

absl::optional<StatusPoller::Answer> StatusPoller::Take() {
  absl::MutexLock lock(&mutex_);
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t drained = read(event_, &count, sizeof count);
  absl::optional<Answer> answer = std::move(answer_);
  answer_.reset();
  return answer;
}

bool StatusPoller::AwaitTurn() {
  while (!stopping_) {
    const absl::Time due = polling_.paused ? absl::InfiniteFuture() : last_asked_ + polling_.interval;
    if (absl::Now() >= due) return true;
    changed_ = false;
    mutex_.AwaitWithDeadline(absl::Condition(&changed_), due);
  }
  return false;
}

void StatusPoller::Loop() {
  absl::MutexLock lock(&mutex_);
  while (AwaitTurn()) {
    last_asked_ = absl::Now();
    const double window = polling_.window_seconds;
    mutex_.Unlock();
    Answer answer = ask_(window);
    mutex_.Lock();
    answer_ = std::move(answer);
    const uint64_t one = 1;
    BATON_CHECK(write(event_, &one, sizeof one) == sizeof one);
  }
}

}  // namespace baton::cli
