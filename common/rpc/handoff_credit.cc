#include "common/rpc/handoff_credit.h"

#include <algorithm>
#include <utility>

#include "common/base/status_macros.h"

namespace baton {

int64_t HandoffCredit::taken() const {
  absl::MutexLock lock(&mutex_);
  return taken_;
}

int64_t HandoffCredit::MostOfOne() const {
  // So that a few stalled ones leave room for others.
  constexpr int64_t kFewest = 4;
  return bytes_ / std::max(kFewest, accounts_);
}

void HandoffCredit::Forget(Account* account) {
  if (!std::exchange(account->waiting_, false)) return;
  waiters_.erase(std::find(waiters_.begin(), waiters_.end(), account));
}

void HandoffCredit::CallWaiters() {
  int64_t promised = 0;
  while (true) {
    std::function<void()> retry;
    {
      absl::MutexLock lock(&mutex_);
      if (waiters_.empty()) return;
      Account* const next = waiters_.front();
      const int64_t on_its_way = taken_ + promised;
      if (on_its_way > 0 && on_its_way + next->wanted_ > bytes_) return;
      Forget(next);
      next->called_ = true;
      promised += next->wanted_;
      retry = next->retry_;
    }
    retry();
  }
}

HandoffCredit::Account::Account(HandoffCredit* credit, std::function<void()> retry)
    : credit_(credit), retry_(std::move(retry)) {
  absl::MutexLock lock(&credit_->mutex_);
  ++credit_->accounts_;
}

HandoffCredit::Account::~Account() {
  {
    absl::MutexLock lock(&credit_->mutex_);
    credit_->Forget(this);
    --credit_->accounts_;
    credit_->taken_ -= held_;
  }
  credit_->CallWaiters();
}

bool HandoffCredit::Account::Take(int64_t bytes) {
  absl::MutexLock lock(&credit_->mutex_);
  const bool has_turn = std::exchange(called_, false) || credit_->waiters_.empty();
  // Refused: it holds something, whose Return is also the next one's turn.
  if (held_ > 0 && held_ + bytes > credit_->MostOfOne()) return false;
  const bool room = credit_->taken_ == 0 || credit_->taken_ + bytes <= credit_->bytes_;
  if (!room || !has_turn) {
    wanted_ = bytes;
    if (!std::exchange(waiting_, true)) credit_->waiters_.push_back(this);
    return false;
  }
  credit_->Forget(this);
  held_ += bytes;
  credit_->taken_ += bytes;
  return true;
}

void HandoffCredit::Account::Return(int64_t bytes) {
  {
    absl::MutexLock lock(&credit_->mutex_);
    BATON_CHECK(bytes >= 0 && bytes <= held_);
    held_ -= bytes;
    credit_->taken_ -= bytes;
  }
  credit_->CallWaiters();
}

void HandoffCredit::Account::Pass() {
  {
    absl::MutexLock lock(&credit_->mutex_);
    called_ = false;
    credit_->Forget(this);
  }
  credit_->CallWaiters();
}

int64_t HandoffCredit::Account::held() const {
  absl::MutexLock lock(&credit_->mutex_);
  return held_;
}

}  // namespace baton
