// One client of the gateway, as its API keys name it: what it has left of its limits. Lives as long as the key file
// names it, through reloads, so that a reload gives nobody fresh allowances.
//
//   absl::StatusOr<std::shared_ptr<ClientPass>> pass = client->Admit(Clock::now());
//     RESOURCE_EXHAUSTED   with RetryInfo; reason CLIENT_CONCURRENCY, CLIENT_REQUEST_RATE or CLIENT_TOKEN_RATE
//   ...
//   (*pass)->Finish(prompt_tokens + output_tokens);
//
// Rates are buckets that hold one minute's worth and fill evenly. A request takes one of the requests when it begins;
// its tokens are known, and taken, when it ends. So a client is admitted while it has tokens left, may owe some
// afterwards, and then waits until they are paid back. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "gateway/api_keys.h"
#include "gateway/gateway_metrics.h"
#include "gateway/timers.h"

namespace baton {

// Something that there is so much of a minute.
class MinuteBucket {
 public:
  // Zero: without end. What was left stays, up to the new size; a bucket that was without end begins full.
  void SetPerMinute(int64_t per_minute, Clock::time_point now);
  // Zero when there is `amount`, else how long until there will be.
  Clock::duration Wait(double amount, Clock::time_point now);
  // May go below zero.
  void Take(double amount, Clock::time_point now);

 private:
  void Fill(Clock::time_point now);

  double per_minute_ = 0;
  double level_ = 0;
  Clock::time_point filled_at_;
};

class ClientPass;

class Client : public std::enable_shared_from_this<Client> {
 public:
  // `metrics` must outlive it.
  Client(std::string name, ClientLimits limits, ClientMetrics* metrics, Clock::time_point now);
  Client(const Client&) = delete;

  const std::string& name() const { return name_; }
  ClientMetrics& metrics() { return *metrics_; }
  std::shared_ptr<const ClientLimits> limits() const;
  void SetLimits(ClientLimits limits, Clock::time_point now);
  absl::StatusOr<std::shared_ptr<ClientPass>> Admit(Clock::time_point now);

 private:
  friend class ClientPass;
  void Leave(int64_t tokens);

  const std::string name_;
  ClientMetrics* const metrics_;
  mutable std::mutex mutex_;
  // Guarded by mutex_.
  std::shared_ptr<const ClientLimits> limits_;
  MinuteBucket requests_;
  MinuteBucket tokens_;
  int64_t running_ = 0;
};

// One request under way.
class ClientPass {
 public:
  explicit ClientPass(std::shared_ptr<Client> client) : client_(std::move(client)) {}
  ~ClientPass() { Finish(0); }
  ClientPass(const ClientPass&) = delete;

  // The first call counts.
  void Finish(int64_t tokens) {
    if (!finished_.exchange(true)) client_->Leave(tokens);
  }

 private:
  const std::shared_ptr<Client> client_;
  std::atomic<bool> finished_{false};
};

}  // namespace baton
