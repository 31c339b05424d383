#include "gateway/cli/interrupt.h"

#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <utility>

#include "common/base/status_macros.h"
#include "common/rpc/status_mapping.h"
#include "gateway/cli/exit_code.h"

namespace baton::cli {
namespace {

void Signal(int event) {
  const uint64_t one = 1;
  BATON_CHECK(write(event, &one, sizeof one) == sizeof one);
}

}  // namespace

Interrupt::Interrupt() : event_(eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)), stop_(eventfd(0, EFD_CLOEXEC)) {
  BATON_CHECK(event_ >= 0 && stop_ >= 0);
}

Interrupt::~Interrupt() {
  if (listener_.joinable()) {
    Signal(stop_);
    listener_.join();
  }
  close(event_);
  close(stop_);
}

void Interrupt::ListenToSignals() {
  ::signal(SIGPIPE, SIG_IGN);
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  BATON_CHECK(pthread_sigmask(SIG_BLOCK, &signals, nullptr) == 0);
  const int taken = signalfd(-1, &signals, SFD_CLOEXEC);
  BATON_CHECK(taken >= 0);
  listener_ = std::thread([this, taken] {
    pollfd waiting[] = {{taken, POLLIN, 0}, {stop_, POLLIN, 0}};
    while (true) {
      if (poll(waiting, 2, -1) < 0) continue;
      if (waiting[1].revents != 0) break;
      signalfd_siginfo info;
      if (waiting[0].revents != 0 && read(taken, &info, sizeof info) == sizeof info) {
        Raise(static_cast<int>(info.ssi_signo));
      }
    }
    close(taken);
  });
}

void Interrupt::Raise(int signal_number) {
  absl::MutexLock lock(&mutex_);
  RaiseLocked(signal_number);
}

void Interrupt::RaiseOnce() {
  absl::MutexLock lock(&mutex_);
  if (!raised()) RaiseLocked(SIGINT);
}

void Interrupt::RaiseLocked(int signal_number) {
  if (scopes_ == 0 || raised()) Die(signal_number);
  signal_.store(signal_number, std::memory_order_release);
  Signal(event_);
  for (grpc::ClientContext* context : contexts_) context->TryCancel();
}

void Interrupt::Die(int signal_number) {
  if (last_rites_ != nullptr) last_rites_();
  if (!last_words_.empty()) {
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, last_words_.data(), last_words_.size());
  }
  _exit(128 + signal_number);
}

void Interrupt::Clear() {
  uint64_t count = 0;
  [[maybe_unused]] const ssize_t drained = read(event_, &count, sizeof count);
  signal_.store(0, std::memory_order_release);
}

bool Interrupt::Sleep(absl::Duration duration) const {
  pollfd waiting{event_, POLLIN, 0};
  return poll(&waiting, 1, static_cast<int>(absl::ToInt64Milliseconds(duration))) > 0;
}

absl::Status Interrupt::status() const { return WithReason(absl::CancelledError("interrupted"), kInterrupted); }

void Interrupt::SetLastWords(std::string words) {
  absl::MutexLock lock(&mutex_);
  last_words_ = std::move(words);
}

void Interrupt::SetLastRites(void (*rites)()) {
  absl::MutexLock lock(&mutex_);
  last_rites_ = rites;
}

void Interrupt::Enter() {
  absl::MutexLock lock(&mutex_);
  ++scopes_;
}

void Interrupt::Leave() {
  absl::MutexLock lock(&mutex_);
  --scopes_;
}

Interrupt::Scope::Scope(Interrupt& interrupt) : interrupt_(interrupt) { interrupt_.Enter(); }
Interrupt::Scope::~Scope() { interrupt_.Leave(); }

Interrupt::CancelScope::CancelScope(Interrupt& interrupt, grpc::ClientContext* context)
    : interrupt_(interrupt), context_(context) {
  absl::MutexLock lock(&interrupt_.mutex_);
  ++interrupt_.scopes_;
  interrupt_.contexts_.push_back(context_);
  if (interrupt_.raised()) context_->TryCancel();
}

Interrupt::CancelScope::~CancelScope() {
  absl::MutexLock lock(&interrupt_.mutex_);
  --interrupt_.scopes_;
  auto& contexts = interrupt_.contexts_;
  contexts.erase(std::find(contexts.begin(), contexts.end(), context_));
}

}  // namespace baton::cli
