#include "common/rpc/worker_main.h"

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "absl/status/statusor.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/time/time.h"
#include "absl/types/optional.h"
#include "common/base/bytes.h"
#include "common/base/cpu.h"
#include "common/base/ids.h"
#include "common/base/lock_order.h"
#include "common/base/status_macros.h"
#include "common/compute/blas_core.h"
#include "common/model/weights.h"
#include "common/observe/log.h"
#include "common/rpc/command_line.h"
#include "common/rpc/etcd_registration.h"
#include "common/rpc/memory_plan.h"
#include "common/rpc/server.h"
#include "common/rpc/service_manager.h"
#include "common/rpc/shutdown_signal.h"

namespace baton {
namespace {

// A message is at most one piece of state; pieces of wide layers are a few MiB.
constexpr int kMaxReceiveBytes = 64 << 20;
// A gateway has one connection for all its requests.
constexpr int kMaxStreamsPerConnection = 1 << 16;
// Code, libraries, stacks, gRPC's buffers, the tokenizer.
constexpr int64_t kProgramBytes = int64_t{64} << 20;
// For calls that outlive the grace period to see their cancellation.
constexpr absl::Duration kStopGrace = absl::Milliseconds(200);

std::string RoleName(const WorkerRole& role) {
  return absl::AsciiStrToLower(worker::v1::WorkerInfo::Role_Name(role.role()));
}

// http://HOST:PORT/metrics for the address that was asked for and the port that was bound.
std::string MetricsUrl(const std::string& address, int port) {
  return absl::StrCat("http://", address.substr(0, address.rfind(':')), ":", port, "/metrics");
}

void PrintReady(const std::string& role, const std::string& listen, const std::string& metrics,
                const WorkerContext& context) {
  std::printf("READY role=%s listen=%s metrics=%s model=%s boot=%s\n", role.c_str(), listen.c_str(), metrics.c_str(),
              context.model_name.c_str(), context.boot_id.c_str());
  std::fflush(stdout);
}

// Stops a role's engine on every way out.
class RoleStopper {
 public:
  explicit RoleStopper(WorkerRole* role) : role_(role) {}
  ~RoleStopper() { role_->Stop(); }
  RoleStopper(const RoleStopper&) = delete;

 private:
  WorkerRole* const role_;
};

absl::StatusOr<MemoryPlan> PlanMemory(const WorkerFlags& flags, const Checkpoint& checkpoint, const WorkerRole& role) {
  BATON_ASSIGN_OR_RETURN(const WeightPlan weights, PlanWeights(checkpoint, flags.engine.weights));
  MemoryPlan plan;
  plan.weights = weights.weights->bytes;
  plan.weights_shared = weights.sources.empty() || !flags.engine.CacheDirectory().empty();
  plan.state = StateMemoryBytes(flags);
  plan.workspace = kProgramBytes + role.handoff_bytes() + WorkspaceBytes(checkpoint.config(), role.batch_limits());
  plan.machine = ReadMachineMemory();
  return plan;
}

// Says what OpenBLAS does, where it matters.
void LogBlasCore(const BlasCoreChoice& choice) {
  if (!choice.problem.empty()) {
    Log(Severity::kWarning, "slow_openblas_core").With("core", choice.core).With("problem", choice.problem);
  } else if (!choice.instead_of.empty()) {
    Log(Severity::kInfo, "openblas_core")
        .With("core", choice.core)
        .With("instead_of", choice.instead_of)
        .With("reason", "OpenBLAS did not know this CPU; started again with OPENBLAS_CORETYPE");
  }
}

void WarnOfWildcard(const std::string& endpoint, bool told_to_others) {
  if (!told_to_others || !(absl::StartsWith(endpoint, "0.0.0.0:") || absl::StartsWith(endpoint, "[::]:"))) return;
  Log(Severity::kWarning, "wildcard_endpoint")
      .With("listen", endpoint)
      .With("advice", "give --advertise HOST:PORT, or processes on other machines cannot reach this one");
}

absl::Status Serve(const WorkerFlags& flags, const std::string& role_name, WorkerRole* role) {
  BATON_RETURN_IF_ERROR(CheckEtcdOptions(flags.etcd));
  if (!flags.cpus.empty()) BATON_RETURN_IF_ERROR(PinProcess(flags.cpus));
  Metrics metrics(role_name);
  BATON_ASSIGN_OR_RETURN(const std::shared_ptr<TlsCredentials> tls, TlsCredentials::Create(flags.tls));
  TlsMetrics tls_metrics(tls.get(), &metrics);
  WorkerContext context;
  context.flags = flags;
  context.channel = tls->Secure(ChannelOptions());
  context.boot_id = NewBootId();
  BATON_ASSIGN_OR_RETURN(
      context.tracing, Tracing::Create(flags.tracing, {absl::StrCat("baton-", role_name), context.boot_id}, &metrics));
  BATON_ASSIGN_OR_RETURN(context.model_name, ServedModelName(flags));
  BATON_ASSIGN_OR_RETURN(Checkpoint checkpoint, Checkpoint::Open(flags.model));
  BATON_ASSIGN_OR_RETURN(const MemoryPlan memory, PlanMemory(flags, checkpoint, *role));
  Log(Severity::kInfo, "memory").With("plan", memory.ToString());
  BATON_RETURN_IF_ERROR(memory.Check());
  BATON_ASSIGN_OR_RETURN(const std::unique_ptr<Model> model, LoadModel(flags, std::move(checkpoint)));
  context.model = model.get();
  context.max_tokens = ServedMaxTokens(flags, model->config());

  MemoryBudget budget(StateMemoryBytes(flags));
  LoadReporter load(&budget);
  DrainGate gate;
  context.budget = &budget;
  context.metrics = &metrics;
  context.load = &load;
  context.gate = &gate;

  // Destroyed in reverse: server, service, engine, then what they point at.
  MetricsServer metrics_server(&metrics);
  std::string metrics_url = "off";
  if (flags.metrics != "off") {
    BATON_RETURN_IF_ERROR(metrics_server.Start(flags.metrics));
    metrics_url = MetricsUrl(flags.metrics, metrics_server.port());
  }
  RoleStopper stopper(role);
  BATON_RETURN_IF_ERROR(role->Start(context));

  WorkerIdentity identity;
  identity.role = role->role();
  identity.boot_id = context.boot_id;
  identity.model_name = context.model_name;
  identity.max_tokens = context.max_tokens;
  identity.state_bytes_total = budget.total();
  identity.reserve_output = role->reserve_output();
  identity.local_prefill_chunk = role->local_prefill_chunk();
  identity.checkpoint_tokens = role->checkpoint_tokens();
  identity.checkpoint_bytes = role->checkpoint_bytes();
  WorkerService worker_service(MakeWorkerInfo(identity, *model, *model->MakeStateLayout(role->max_run_tokens())),
                               model->tokenizer(), &load, context.tracing);

  RpcServerOptions server_options;
  server_options.listen = flags.listen;
  server_options.max_receive_bytes = kMaxReceiveBytes;
  server_options.credentials = tls->server();
  server_options.limits.max_streams_per_connection = kMaxStreamsPerConnection;
  server_options.limits.max_resets = 0;
  RpcServer server(server_options);
  server.AddService(&worker_service, worker::v1::Worker::service_full_name());
  const bool is_prefill = role->role() == worker::v1::WorkerInfo::PREFILL;
  const char* const role_service =
      is_prefill ? worker::v1::Prefill::service_full_name() : worker::v1::Decode::service_full_name();
  for (grpc::Service* service : role->services()) server.AddService(service, role_service);
  BATON_RETURN_IF_ERROR(server.Start());
  const std::string endpoint = flags.advertise.empty() ? server.address() : flags.advertise;
  WarnOfWildcard(endpoint, !is_prefill || flags.etcd.enabled());
  worker_service.SetEndpoint(endpoint);
  role->OnListening(endpoint);
  server.SetServing(true);
  std::unique_ptr<EtcdRegistration> registration;
  if (flags.etcd.enabled()) {
    registration = std::make_unique<EtcdRegistration>(
        flags.etcd, WorkerRecord{role_name, endpoint, context.model_name, context.boot_id});
  }
  Log(Severity::kInfo, "serving")
      .With("listen", server.address())
      .With("metrics", metrics_url)
      .With("model", context.model_name)
      .With("parameters", model->parameters())
      .With("weights", WeightPrecisionName(model->weights()))
      .With("isa", IsaName(CurrentIsa()))
      .With("fingerprint", model->fingerprint().ToHex())
      .With("state_memory", FormatBytes(budget.total()))
      .With("boot", context.boot_id);
  PrintReady(role_name, server.address(), metrics_url, context);
  TellServiceManager(ServingNotice());

  const int signal = WaitForShutdownSignal();
  Log(Severity::kInfo, "draining").With("signal", signal).With("running", gate.inside());
  TellServiceManager(DrainingNotice(absl::Seconds(flags.grace_seconds)));
  server.SetServing(false);
  load.SetDraining();
  role->OnDraining();
  if (registration != nullptr) registration->Withdraw();
  if (!gate.Drain(absl::Seconds(flags.grace_seconds)) && !gate.Drain(role->OnGraceOver())) {
    Log(Severity::kWarning, "grace_period_over").With("cancelled", gate.inside());
  }
  role->OnDrained();
  worker_service.EndWatches();
  server.Stop(kStopGrace);
  context.tracing->Flush();
  Log(Severity::kInfo, "stopped").With("signal", signal);
  return absl::OkStatus();
}

}  // namespace

int RunWorkerMain(int argc, const char* const* argv, WorkerRole* role) {
  BlockShutdownSignals();
  LeaveLockOrderToTests();
  // A limit on the size of files is an error where one is written or shared memory is made, and both do without.
  std::signal(SIGXFSZ, SIG_IGN);
  // gRPC's own lines on stderr repeat, at length, what our errors say; who wants them sets GRPC_VERBOSITY.
  setenv("GRPC_VERBOSITY", "NONE", /*overwrite=*/0);
  const std::string role_name = RoleName(*role);
  const std::string program = absl::StrCat("baton-", role_name);
  CLI::App app(role->description(), program);
  WorkerFlags flags;
  flags.listen = role->default_listen();
  AddWorkerFlags(app, &flags);
  role->AddFlags(app);
  if (absl::optional<int> exit_code = ParseCommandLine(app, argc, argv)) return *exit_code;

  LogOptions log_options;
  log_options.minimum = flags.log.level;
  log_options.json = flags.log.json;
  log_options.role = role_name;
  ConfigureLog(log_options);

  ApplyIsa(flags.engine);
  if (flags.engine.weights == WeightPrecision::kF32) LogBlasCore(RestartForBlas(argv));
  const absl::Status status = Serve(flags, role_name, role);
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s: %s\n", program.c_str(), std::string(status.message()).c_str());
  return 1;
}

}  // namespace baton
