// baton-gateway: the program. Flags, the READY line, draining on SIGTERM or SIGINT.
#include <CLI/CLI.hpp>

#include <chrono>
#include <cstdio>
#include <functional>
#include <limits>
#include <memory>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "common/base/bytes.h"
#include "common/base/lock_order.h"
#include "common/base/status_macros.h"
#include "common/base/version.h"
#include "common/observe/log.h"
#include "common/rpc/command_line.h"
#include "common/rpc/etcd.h"
#include "common/rpc/log_flags.h"
#include "common/rpc/real_range.h"
#include "common/rpc/service_manager.h"
#include "common/rpc/shutdown_signal.h"
#include "common/rpc/tls.h"
#include "common/rpc/tracing.h"
#include "gateway/etcd_directory.h"
#include "gateway/gateway.h"

namespace {

using baton::GatewayOptions;

struct Flags {
  GatewayOptions gateway;
  double grace_seconds = 30;
  double max_connection_idle_seconds = 600;
  double max_connection_age_seconds = 3600;
  baton::TlsFlags tls;
  baton::EtcdOptions etcd;
  baton::LogFlags log;
};

CLI::Validator IsTarget() {
  return CLI::Validator([](std::string& text) { return baton::TargetProblem(text); }, "", "IsTarget");
}

void AddWorkerOptions(CLI::App& app, baton::WorkerRegistryOptions* workers, baton::EtcdOptions* etcd) {
  app.add_option("--prefill-worker", workers->prefill,
                 "A prefill worker; repeatable. A DNS name stands for all its addresses, srv:NAME for its SRV records")
      ->check(IsTarget())
      ->type_name("HOST:PORT|srv:NAME");
  app.add_option("--decode-worker", workers->decode, "A decode worker; repeatable, as above")
      ->check(IsTarget())
      ->type_name("HOST:PORT|srv:NAME");
  baton::AddEtcdFlags(app, etcd);
  // Not ->required(): etcd may know the workers.
  app.final_callback([workers, etcd] {
    if (etcd->enabled()) return;
    if (workers->prefill.empty()) throw CLI::RequiredError("--prefill-worker (or --etcd)");
    if (workers->decode.empty()) throw CLI::RequiredError("--decode-worker (or --etcd)");
  });
}

// --name SECONDS, up to a day.
void AddSecondsOption(CLI::App& app, const std::string& name, baton::Clock::duration* value, const std::string& help) {
  using Seconds = std::chrono::duration<double>;
  app.add_option_function<double>(
         name,
         [value](const double& seconds) {
           *value = std::chrono::duration_cast<baton::Clock::duration>(Seconds(seconds));
         },
         help)
      ->check(baton::RealRange(0.0, 86400.0))
      ->type_name("SECONDS")
      ->default_str(absl::StrCat(Seconds(*value).count()));
}

// --name BYTES, from `least` to `most`.
void AddBytesOption(CLI::App& app, const std::string& name, const std::string& help, const std::string& default_text,
                    int64_t least, int64_t most, std::function<void(int64_t)> set) {
  app.add_option_function<std::string>(
         name,
         [=](const std::string& text) {
           const absl::StatusOr<int64_t> bytes = baton::ParseBytes(text);
           if (!bytes.ok()) throw CLI::ValidationError(name, std::string(bytes.status().message()));
           if (*bytes < least || *bytes > most) {
             throw CLI::ValidationError(
                 name, "must be from " + baton::FormatBytes(least) + " to " + baton::FormatBytes(most));
           }
           set(*bytes);
         },
         help)
      ->type_name("BYTES")
      ->default_str(default_text);
}

// What one client, and all together, may make the gateway hold.
void AddConnectionOptions(CLI::App& app, Flags* flags) {
  baton::RpcServerOptions& server = flags->gateway.server;
  AddBytesOption(app, "--max-message-bytes", "Largest request, such as 16MiB", "4MiB", 1024,
                 std::numeric_limits<int>::max(),
                 [&server](int64_t bytes) { server.max_receive_bytes = static_cast<int>(bytes); });
  AddBytesOption(app, "--max-metadata-bytes", "Most metadata of one call", "16KiB", 1024, 1 << 20,
                 [&server](int64_t bytes) { server.limits.max_metadata_bytes = static_cast<int>(bytes); });
  AddBytesOption(app, "--max-buffer-bytes",
                 "Memory for connections and messages on their way; beyond it connections are dropped", "1GiB",
                 16 << 20, int64_t{1} << 50, [&server](int64_t bytes) { server.limits.max_buffer_bytes = bytes; });
  app.add_option("--max-connections", server.limits.max_connections,
                 "Connections at a time, about; further ones are closed at once (default: as the limit of open files "
                 "allows)")
      ->check(CLI::Range(16, 1 << 30).description(""))
      ->type_name("N");
  app.add_option("--max-streams-per-connection", server.limits.max_streams_per_connection,
                 "Calls under way on one connection; a client keeps further ones waiting")
      ->check(CLI::Range(1, 1 << 20).description(""))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--max-resets", server.limits.max_resets,
                 "Calls reset a second from which on the connections they come from are ended; 0: no limit")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 40).description(""))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--max-connection-idle", flags->max_connection_idle_seconds,
                 "Close connections that have had no calls for this long; 0: never")
      ->check(baton::RealRange(0.0, 1e6).description(""))
      ->type_name("SECONDS")
      ->capture_default_str();
  app.add_option("--max-connection-age", flags->max_connection_age_seconds,
                 "Have clients connect anew after this long, each when its calls have ended; 0: never")
      ->check(baton::RealRange(0.0, 1e6).description(""))
      ->type_name("SECONDS")
      ->capture_default_str();
}

absl::Duration OrForever(double seconds) { return seconds > 0 ? absl::Seconds(seconds) : absl::InfiniteDuration(); }

void AddLimitOptions(CLI::App& app, Flags* flags) {
  GatewayOptions& gateway = flags->gateway;
  app.add_option("--max-running", gateway.admission.max_running, "Requests worked on at a time")
      ->check(CLI::Range(1, 1000000))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--max-queue", gateway.admission.max_queue, "Requests that may wait; more are refused")
      ->check(CLI::Range(0, 1000000))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--max-queue-tokens", gateway.admission.max_queue_tokens,
                 "Tokens of work (prompts and what they may generate) that may wait; more are refused")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 40))
      ->type_name("N")
      ->capture_default_str();
  AddSecondsOption(app, "--priority-aging", &gateway.admission.order.aging,
                   "Seconds after which a request that waits counts as one priority higher; 0: never");
  AddSecondsOption(app, "--prefill-backlog", &gateway.prefill_backlog,
                   "Seconds of work a prefill worker may have before more requests wait here, where they are served "
                   "fairly; 0: no limit");
  AddSecondsOption(app, "--queue-timeout", &gateway.admission.queue_timeout, "Seconds a request may wait for its turn");
  app.add_option("--local-prefill-tokens", gateway.local_prefill_tokens,
                 "Prompts with at most so many tokens to compute are computed by the decode worker, in its own batch "
                 "(docs/scheduling.md); 0: none")
      ->check(CLI::Range(0, 1 << 20))
      ->type_name("N")
      ->capture_default_str();
  app.add_option("--grace", flags->grace_seconds, "Seconds that running requests get to finish after SIGTERM")
      ->check(baton::RealRange(0.0, 86400.0))
      ->type_name("SECONDS")
      ->capture_default_str();
}

void AddFailoverOptions(CLI::App& app, Flags* flags) {
  GatewayOptions& gateway = flags->gateway;
  app.add_option(
         "--max-attempts", gateway.max_attempts,
         "Attempts of a request that may fail in a row, without a token in between, before its client hears of it; "
         "twice as many once it has had tokens")
      ->check(CLI::Range(1, 16))
      ->type_name("N")
      ->capture_default_str();
  AddSecondsOption(app, "--stall-timeout", &gateway.stall_timeout,
                   "Seconds without a sign of life after which a worker is given up and its requests go on elsewhere; "
                   "0: only a broken connection counts");
  AddSecondsOption(app, "--resume-timeout", &gateway.resume_timeout,
                   "Seconds that a request whose workers were lost waits for others");
  app.add_option("--breaker-failures", gateway.breaker.failures,
                 "Failures in a row after which a worker gets no new requests for a while; 0: never")
      ->check(CLI::Range(0, 1000000))
      ->type_name("N")
      ->capture_default_str();
}

void AddHedgeOptions(CLI::App& app, baton::HedgeOptions* hedge) {
  using Seconds = std::chrono::duration<double>;
  app.add_option_function<std::string>(
         "--hedge-after",
         [hedge](const std::string& text) {
           double seconds = 0;
           if (text == "off") return hedge->after.reset();
           if (!absl::SimpleAtod(text, &seconds) || !(seconds >= 0.001 && seconds <= 86400)) {
             throw CLI::ValidationError("--hedge-after", "must be from 0.001 to 86400 (seconds), or off");
           }
           hedge->after = std::chrono::duration_cast<baton::Clock::duration>(Seconds(seconds));
         },
         "Try a request on other workers as well when its first token is late by this, beyond what its prompt takes; "
         "whoever is first goes on (docs/scheduling.md)")
      ->type_name("SECONDS|off")
      ->default_str("off");
  app.add_option("--hedge-budget", hedge->budget_percent, "Of the requests, those that may be tried like that")
      ->check(baton::RealRange(0.01, 100.0).description(""))
      ->type_name("PERCENT")
      ->capture_default_str();
}

void AddAccessOptions(CLI::App& app, GatewayOptions* gateway) {
  app.add_option(
         "--api-keys", gateway->api_keys,
         "File of the API keys that may call, read again when it changes (docs/security.md; `baton key new NAME` "
         "makes keys). Default: everybody may call")
      ->type_name("FILE");
}

bool IsLoopback(const std::string& listen) {
  return listen.rfind("127.", 0) == 0 || listen.rfind("localhost:", 0) == 0 || listen.rfind("[::1]:", 0) == 0;
}

absl::Status Serve(const Flags& flags) {
  GatewayOptions options = flags.gateway;
  BATON_ASSIGN_OR_RETURN(options.tls, baton::TlsCredentials::Create(flags.tls));
  BATON_RETURN_IF_ERROR(CheckEtcdOptions(flags.etcd));
  if (flags.etcd.enabled()) options.workers.directory = std::make_shared<baton::EtcdDirectory>(flags.etcd);
  if (!options.api_keys.empty() && options.tls->server() == nullptr && !IsLoopback(options.server.listen)) {
    baton::Log(baton::Severity::kWarning, "api_keys_in_plain_text")
        .With("listen", options.server.listen)
        .With("advice", "give --tls-cert and --tls-key, or have something in front of the gateway speak TLS");
  }
  baton::Gateway gateway(options);
  BATON_RETURN_IF_ERROR(gateway.Start());
  const std::string& boot_id = options.boot_id;
  baton::Log(baton::Severity::kInfo, "serving")
      .With("listen", gateway.address())
      .With("metrics", gateway.metrics_url())
      .With("boot", boot_id);
  std::printf("READY role=gateway listen=%s metrics=%s boot=%s\n", gateway.address().c_str(),
              gateway.metrics_url().c_str(), boot_id.c_str());
  std::fflush(stdout);
  baton::TellServiceManager(baton::ServingNotice());

  const int signal = baton::WaitForShutdownSignal();
  baton::Log(baton::Severity::kInfo, "draining").With("signal", signal).With("running", gateway.calls());
  baton::TellServiceManager(baton::DrainingNotice(absl::Seconds(flags.grace_seconds)));
  if (!gateway.Drain(absl::Seconds(flags.grace_seconds))) {
    baton::Log(baton::Severity::kWarning, "grace_period_over");
  }
  baton::Log(baton::Severity::kInfo, "stopped");
  return absl::OkStatus();
}

}  // namespace

int main(int argc, char** argv) {
  baton::BlockShutdownSignals();
  baton::LeaveLockOrderToTests();
  CLI::App app("Serves Baton's public gRPC API in front of prefill and decode workers", "baton-gateway");
  Flags flags;
  flags.gateway.server.listen = "127.0.0.1:7000";
  flags.gateway.server.limits.max_buffer_bytes = int64_t{1} << 30;
  app.set_version_flag("--version", std::string(baton::kVersion), "Print the version and exit");
  app.add_option("--listen", flags.gateway.server.listen, "Where to serve gRPC; port 0 picks a free one")
      ->check(baton::IsHostPort())
      ->type_name("HOST:PORT")
      ->capture_default_str();
  app.add_option("--metrics", flags.gateway.metrics, "Where to serve Prometheus metrics, or \"off\"")
      ->check([](const std::string& text) { return text == "off" ? std::string() : baton::IsHostPort()(text); })
      ->type_name("HOST:PORT|off")
      ->capture_default_str();
  AddWorkerOptions(app, &flags.gateway.workers, &flags.etcd);
  baton::AddTlsFlags(app, &flags.tls, "workers");
  AddAccessOptions(app, &flags.gateway);
  AddLimitOptions(app, &flags);
  AddFailoverOptions(app, &flags);
  AddHedgeOptions(app, &flags.gateway.hedge);
  AddConnectionOptions(app, &flags);
  baton::AddTracingFlags(app, &flags.gateway.tracing);
  baton::AddLogFlags(app, &flags.log);
  if (absl::optional<int> exit_code = baton::ParseCommandLine(app, argc, argv)) return *exit_code;

  baton::LogOptions log_options;
  log_options.minimum = flags.log.level;
  log_options.json = flags.log.json;
  log_options.role = "gateway";
  baton::ConfigureLog(log_options);
  flags.gateway.server.limits.max_connection_idle = OrForever(flags.max_connection_idle_seconds);
  flags.gateway.server.limits.max_connection_age = OrForever(flags.max_connection_age_seconds);

  const absl::Status status = Serve(flags);
  if (status.ok()) return 0;
  std::fprintf(stderr, "baton-gateway: %s\n", std::string(status.message()).c_str());
  return 1;
}
