#include "decode/state_spiller.h"

#include <utility>

namespace baton {

StateSpiller::StateSpiller(const StateSpillerOptions& options, std::function<void()> done)
    : options_(options), done_callback_(std::move(done)), thread_([this] { Loop(); }) {}

StateSpiller::~StateSpiller() {
  std::deque<StateMove> dropped;
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
    dropped.swap(waiting_);
  }
  thread_.join();
}

void StateSpiller::Submit(StateMove move) {
  absl::MutexLock lock(&mutex_);
  waiting_.push_back(std::move(move));
}

std::vector<StateMove> StateSpiller::TakeDone() {
  absl::MutexLock lock(&mutex_);
  return std::exchange(done_, {});
}

void StateSpiller::Loop() {
  const auto has_work = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return stopping_ || !waiting_.empty(); };
  while (true) {
    StateMove move;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(&has_work));
      if (stopping_) return;
      move = std::move(waiting_.front());
      waiting_.pop_front();
    }
    Run(move);
    {
      absl::MutexLock lock(&mutex_);
      done_.push_back(std::move(move));
    }
    done_callback_();
  }
}

void StateSpiller::Run(StateMove& move) const {
  if (move.file.has_value()) {
    move.status = RestoreState(*move.file, options_.fingerprint, move.next_token, &*move.state);
    move.file.reset();
    if (!move.status.ok()) move.state.reset();
    return;
  }
  absl::StatusOr<SpilledState> file =
      SpillState(options_.directory, options_.fingerprint, *move.state, move.next_token);
  if (!file.ok()) {
    move.status = file.status();
    return;
  }
  move.file = *std::move(file);
  move.state.reset();
}

}  // namespace baton
