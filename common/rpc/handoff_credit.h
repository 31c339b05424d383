// How much state may be on its way to one decode worker: one bound for all handoffs of a pair (sending worker, decode
// worker), shared fairly, so that many transfers at once slow each other down instead of filling memory. A decode
// worker that does not read holds up its own pair and nobody else: no call here waits.
//
//   HandoffCredit credit(bytes);
//   HandoffCredit::Account account(&credit, [] { ... may be taken now ... });
//   if (account.Take(message_bytes)) { ... send; when the bytes have arrived: account.Return(message_bytes); }
//
// Fairness: no account holds more than a quarter of the bound, or its share where there are more than four; those who
// were refused for lack of room are served in the order in which they asked. Where nothing at all is on its way, a
// message of any size may go. Thread-safe.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>

#include "absl/synchronization/mutex.h"

namespace baton {

class HandoffCredit {
 public:
  explicit HandoffCredit(int64_t bytes) : bytes_(bytes) {}
  HandoffCredit(const HandoffCredit&) = delete;

  int64_t bytes() const { return bytes_; }
  // On its way, of all accounts.
  int64_t taken() const;

  // One handoff's. Its calls must not overlap; other accounts' may.
  class Account {
   public:
    // `retry` is called, on any thread that returns credit and without locks held, after a Take was refused and may
    // succeed now. It must call Take or Pass. `credit` must outlive the account.
    Account(HandoffCredit* credit, std::function<void()> retry);
    ~Account();
    Account(const Account&) = delete;

    // False: not now. Then either something of this account's is on its way, and its Return is the time to try again,
    // or retry will be called.
    bool Take(int64_t bytes);
    // `bytes` of what was taken have arrived, or will not be sent.
    void Return(int64_t bytes);
    // Nothing is to be taken after all: others may.
    void Pass();
    int64_t held() const;

   private:
    friend class HandoffCredit;
    HandoffCredit* const credit_;
    const std::function<void()> retry_;
    // Under the credit's mutex.
    int64_t held_ = 0;
    int64_t wanted_ = 0;
    bool waiting_ = false;
    // Its retry has been called, or is about to be.
    bool called_ = false;
  };

 private:
  // Calls those whose turn it is.
  void CallWaiters() ABSL_LOCKS_EXCLUDED(mutex_);
  void Forget(Account* account) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  int64_t MostOfOne() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const int64_t bytes_;
  mutable absl::Mutex mutex_;
  int64_t taken_ ABSL_GUARDED_BY(mutex_) = 0;
  int64_t accounts_ ABSL_GUARDED_BY(mutex_) = 0;
  std::deque<Account*> waiters_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace baton
