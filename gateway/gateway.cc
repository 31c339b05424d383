#include "gateway/gateway.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

// For calls that were told to end to get their status out.
constexpr absl::Duration kStopGrace = absl::Milliseconds(500);

}  // namespace

Gateway::Gateway(const GatewayOptions& options)
    : options_(Secured(options)),
      configured_tracing_(Tracing::Create(options_.tracing, {"baton-gateway", options_.boot_id}, &metrics_)),
      tracing_(configured_tracing_.ok() ? *configured_tracing_
                                        : Tracing::WithHistoryOnly({"baton-gateway", options_.boot_id})),
      hedge_budget_(options.hedge.budget_percent),
      router_(options.local_prefill_tokens, options.breaker),
      queue_(options.admission, &router_, &timers_),
      registry_(options_.workers),
      inference_(MakeContext(options, this)),
      fleet_(&registry_, &router_, &queue_, &activity_, &authenticator_, tracing_.get()),
      server_(options_.server) {
  if (options_.tls != nullptr) tls_metrics_ = std::make_unique<TlsMetrics>(options_.tls.get(), &metrics_);
  router_.SetPrefillBacklog(options.prefill_backlog);
  router_.SetCapacityListener([this] { queue_.Wake(); });
  // The router last: when it tells waiting requests of a worker, the catalogue knows it already.
  registry_.AddObserver(&catalog_);
  registry_.AddObserver(&router_);
  server_.AddService(&inference_, v1::Inference::service_full_name());
  server_.AddService(&fleet_, v1::Fleet::service_full_name());
}

Gateway::~Gateway() {
  inference_.AbortAll();
  server_.Stop(kStopGrace);
  registry_.Stop();
  timers_.Stop();
}

GatewayOptions Gateway::Secured(GatewayOptions options) {
  if (options.tls == nullptr) return options;
  options.server.credentials = options.tls->server();
  options.workers.link.channel = options.tls->Secure(std::move(options.workers.link.channel));
  return options;
}

InferenceContext Gateway::MakeContext(const GatewayOptions& options, Gateway* gateway) {
  InferenceContext context;
  context.authenticator = &gateway->authenticator_;
  context.catalog = &gateway->catalog_;
  context.metrics = &gateway->gateway_metrics_;
  context.gate = &gateway->gate_;
  context.tracer = &gateway->tracing_->tracer();
  context.sessions.router = &gateway->router_;
  context.sessions.queue = &gateway->queue_;
  context.sessions.timers = &gateway->timers_;
  context.text_lane = &gateway->text_lane_;
  context.sessions.max_attempts = options.max_attempts;
  context.sessions.resume_timeout = options.resume_timeout;
  context.sessions.stall_timeout = options.stall_timeout;
  context.sessions.hedge = options.hedge;
  context.sessions.hedge_budget = &gateway->hedge_budget_;
  context.max_queued_events = options.max_queued_events;
  return context;
}

absl::Status Gateway::Start() {
  BATON_RETURN_IF_ERROR(configured_tracing_.status());
  if (!options_.api_keys.empty()) BATON_RETURN_IF_ERROR(authenticator_.UseKeys(options_.api_keys));
  if (options_.metrics != "off") BATON_RETURN_IF_ERROR(metrics_server_.Start(options_.metrics));
  BATON_RETURN_IF_ERROR(server_.Start());
  registry_.Start();
  activity_.Start(&timers_);
  server_.SetServing(true);
  return absl::OkStatus();
}

std::string Gateway::metrics_url() const {
  if (options_.metrics == "off") return "off";
  const std::string host = options_.metrics.substr(0, options_.metrics.rfind(':'));
  return absl::StrCat("http://", host, ":", metrics_server_.port(), "/metrics");
}

bool Gateway::Drain(absl::Duration grace) {
  server_.SetServing(false);
  const bool drained = gate_.Drain(grace);
  if (!drained) inference_.AbortAll();
  server_.Stop(kStopGrace);
  tracing_->Flush();
  return drained;
}

}  // namespace baton
