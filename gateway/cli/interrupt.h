// Ctrl-C (SIGINT) and SIGTERM as something a command can act on: they cancel the calls that are running, wake whoever
// waits on fd(), and end the program only when nobody is there to act, or on the second signal.
//
//   Interrupt interrupt;
//   interrupt.ListenToSignals();                  // in main, before any other thread starts
//   {
//     Interrupt::CancelScope scope(interrupt, &client_context);
//     stub->Generate(&client_context, ...);       // Ctrl-C: TryCancel
//   }
//   if (interrupt.raised()) ...
#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/client_context.h>

#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"

namespace baton::cli {

class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;

  // Blocks SIGINT and SIGTERM in this and all later threads and starts the thread that takes them. SIGPIPE is ignored
  // from then on.
  void ListenToSignals();

  // Says that the caller acts on raised() or fd() by itself, for as long as it lives.
  class Scope {
   public:
    explicit Scope(Interrupt& interrupt);
    ~Scope();
    Scope(const Scope&) = delete;

   private:
    Interrupt& interrupt_;
  };

  // Cancels `context`, at once if a signal came before.
  class CancelScope {
   public:
    CancelScope(Interrupt& interrupt, grpc::ClientContext* context);
    ~CancelScope();
    CancelScope(const CancelScope&) = delete;

   private:
    Interrupt& interrupt_;
    grpc::ClientContext* const context_;
  };

  // What a signal does; also for tests.
  void Raise(int signal_number);
  bool raised() const { return signal_.load(std::memory_order_acquire) != 0; }
  // 0: none.
  int signal() const { return signal_.load(std::memory_order_acquire); }
  // Readable once raised.
  int fd() const { return event_; }
  // Forgets the signal: the command goes on.
  void Clear();
  // Waits; true when woken by a signal.
  bool Sleep(absl::Duration duration) const;
  // CANCELLED with reason INTERRUPTED.
  absl::Status status() const;
  // As Raise(SIGINT), for other ways to ask the same; nothing when raised already.
  void RaiseOnce();
  // Printed when the program ends because nobody acted on a signal. Empty: nothing.
  void SetLastWords(std::string words);
  // Done before that, by whichever thread takes the signal. Null: nothing.
  void SetLastRites(void (*rites)());

 private:
  void Enter();
  void Leave();
  void RaiseLocked(int signal_number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  [[noreturn]] void Die(int signal_number) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  // eventfd.
  int event_ = -1;
  std::atomic<int> signal_{0};
  mutable absl::Mutex mutex_;
  int scopes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::vector<grpc::ClientContext*> contexts_ ABSL_GUARDED_BY(mutex_);
  std::string last_words_ ABSL_GUARDED_BY(mutex_);
  void (*last_rites_)() ABSL_GUARDED_BY(mutex_) = nullptr;

  int stop_ = -1;
  std::thread listener_;
};

}  // namespace baton::cli
