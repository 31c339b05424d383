// What is remembered of one request for its metrics and its one log line. Never its text.
//
//   RequestRecord record(Method::kScore, metrics.unknown());       // then request_id, model and metrics as they are
//   known
//   ...
//   record.Finish(status);          // once; counts and logs
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "common/observe/tracer.h"
#include "gateway/client.h"
#include "gateway/gateway_metrics.h"
#include "gateway/timers.h"

namespace baton {

struct RequestRecord {
  // `metrics` may be GatewayMetrics::unknown() until the model is known.
  RequestRecord(Method which, ModelMetrics* handles) : method(which), metrics(handles), model(kUnknownModel) {}

  void Finish(Outcome outcome, const absl::Status& status);
  void Finish(const absl::Status& status) { Finish(OutcomeOf(status), status); }
  double Elapsed() const { return SecondsBetween(accepted, Clock::now()); }

  void EndSpan(Outcome outcome, const absl::Status& status) const;

  Method method;
  ModelMetrics* metrics;
  // Usable (IsRequestId): it goes into logs.
  std::string request_id;
  std::string model;
  // Of the whole request; Finish ends it.
  Span span;
  // Who asked. `identity` has 32 bytes, zeros for callers who have shown nothing (authenticator.h); `client` is null
  // when keys are not checked, `pass` also before the client was let in.
  std::string identity;
  std::shared_ptr<Client> client;
  std::shared_ptr<ClientPass> pass;
  // When the call reached the gateway.
  Clock::time_point accepted = Clock::now();
  int64_t prompt_tokens = 0;
  // Of them, those that were not computed anew.
  int64_t cached_tokens = 0;
  int64_t output_tokens = 0;
  int choices = 1;
  double queue_seconds = 0;
  // Negative: there was no token.
  double time_to_first_token = -1;
  int attempts = 0;
  // Choices that went on elsewhere, each time.
  int resumes = 0;
  // What became of the second attempt beside a late one, as in docs/metrics.md; null: there was none.
  const char* hedge = nullptr;
};

}  // namespace baton
