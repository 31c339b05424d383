#include "common/rpc/write_pacer.h"

#include <utility>

#include "absl/time/time.h"

namespace baton {

WritePacer::WritePacer() {
  thread_ = std::thread([this] { Loop(); });
}

WritePacer::~WritePacer() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  thread_.join();
}

void WritePacer::Defer(std::shared_ptr<Writer> writer) {
  absl::MutexLock lock(&mutex_);
  if (stopping_) return;
  waiting_.fetch_add(1, std::memory_order_relaxed);
  writers_.push_back(std::move(writer));
}

void WritePacer::Loop() {
  std::vector<std::shared_ptr<Writer>> turn;
  while (true) {
    {
      absl::MutexLock lock(&mutex_);
      mutex_.Await(absl::Condition(this, &WritePacer::SomeoneWaits));
      const int64_t pause = next_.load(std::memory_order_relaxed) - Now();
      // Interrupted by the end alone.
      if (pause > 0 && mutex_.AwaitWithTimeout(absl::Condition(&stopping_), absl::Nanoseconds(pause))) return;
      if (stopping_) return;
      turn.swap(writers_);
      waiting_.store(0, std::memory_order_relaxed);
    }
    const int64_t begun = Now();
    for (const std::shared_ptr<Writer>& writer : turn) writer->WriteDeferred();
    turn.clear();
    End(begun);
  }
}

}  // namespace baton
