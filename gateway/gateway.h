// A whole gateway: workers known, requests served, until drained. The composition root of this directory.
//
//   Gateway gateway(options);
//   BATON_RETURN_IF_ERROR(gateway.Start());
//   ... gateway.address() ...
//   gateway.Drain(grace);                    // refuse new calls, finish running ones, end what is left
//
// Starts before its workers do if need be: it then waits for them, and ListModels shows what is there.
#pragma once

#include <chrono>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/base/ids.h"
#include "common/observe/metrics.h"
#include "common/rpc/drain_gate.h"
#include "common/rpc/server.h"
#include "common/rpc/tls.h"
#include "common/rpc/tracing.h"
#include "gateway/admission_queue.h"
#include "gateway/authenticator.h"
#include "gateway/fleet_activity.h"
#include "gateway/fleet_service.h"
#include "gateway/gateway_metrics.h"
#include "gateway/hedge.h"
#include "gateway/inference_service.h"
#include "gateway/model_catalog.h"
#include "gateway/router.h"
#include "gateway/text_lane.h"
#include "gateway/timers.h"
#include "gateway/worker_registry.h"

namespace baton {

struct GatewayOptions {
  RpcServerOptions server;
  // Of the public port and of connections to workers. Null: plain text.
  std::shared_ptr<TlsCredentials> tls;
  // File of API keys; empty: everybody may call.
  std::string api_keys;
  // "off": none.
  std::string metrics = "127.0.0.1:0";
  AdmissionOptions admission;
  WorkerRegistryOptions workers;
  // See SessionEnvironment.
  int max_attempts = 3;
  // Prefill workers with more to compute than they can in this time take no more.
  Clock::duration prefill_backlog = std::chrono::seconds(2);
  // See Router.
  int64_t local_prefill_tokens = kLocalPrefillTokens;
  Clock::duration resume_timeout = std::chrono::seconds(30);
  Clock::duration stall_timeout = std::chrono::seconds(10);
  CircuitBreakerOptions breaker;
  HedgeOptions hedge;
  TracingFlags tracing;
  std::string boot_id = NewBootId();
  // Events a client's stream may fall behind.
  size_t max_queued_events = 1024;
};

class Gateway {
 public:
  explicit Gateway(const GatewayOptions& options);
  ~Gateway();
  Gateway(const Gateway&) = delete;

  // UNAVAILABLE when an address cannot be bound, INVALID_ARGUMENT and others when the file of keys cannot be used.
  absl::Status Start();
  // Returns with all calls ended and the server stopped. False: the grace period was not enough for some.
  bool Drain(absl::Duration grace);

  std::string address() const { return server_.address(); }
  // URL, or "off".
  std::string metrics_url() const;
  int64_t calls() const { return gate_.inside(); }
  // What metrics_url() serves.
  const Metrics& metrics() const { return metrics_; }

 private:
  static InferenceContext MakeContext(const GatewayOptions& options, Gateway* gateway);

  // With the credentials where they are used.
  static GatewayOptions Secured(GatewayOptions options);

  const GatewayOptions options_;
  Metrics metrics_{"gateway"};
  // Or why there is none; Start says so.
  const absl::StatusOr<std::shared_ptr<Tracing>> configured_tracing_;
  const std::shared_ptr<Tracing> tracing_;
  std::unique_ptr<TlsMetrics> tls_metrics_;
  MetricsServer metrics_server_{&metrics_};
  GatewayMetrics gateway_metrics_{&metrics_};
  Authenticator authenticator_{&metrics_};
  DrainGate gate_;
  HedgeBudget hedge_budget_;
  // Stopped before what its callbacks use is destroyed.
  Timers timers_;
  Router router_;
  AdmissionQueue queue_;
  ModelCatalog catalog_{&gateway_metrics_};
  WorkerRegistry registry_;
  FleetActivity activity_{&gateway_metrics_, [this] { return registry_.Workers(); }};
  TextLane text_lane_;
  InferenceService inference_;
  FleetService fleet_;
  RpcServer server_;
};

}  // namespace baton
