#include "bench/gateway_cost.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "baton/v1/inference.grpc.pb.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "bench/frame_peers.h"
#include "bench/instant_workers.h"
#include "bench/measured_process.h"
#include "bench/stream_load.h"
#include "common/base/status_macros.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::seconds kPatience{60};
constexpr auto kQuickCall = std::chrono::seconds(10);
constexpr int kLocalPromptTokens = 16;
// More than any stream gets.
constexpr int kEndless = 1 << 28;
constexpr double kWarmupSeconds = 0.5;
constexpr int kStreamsPerConnection = 1000;

double SecondsSince(Clock::time_point begin) { return std::chrono::duration<double>(Clock::now() - begin).count(); }

// Workers and what stands before them.
struct Bench {
  std::unique_ptr<InstantWorkers> workers;
  std::unique_ptr<MeasuredProcess> process;
  std::string target;
  std::vector<int32_t> prompt;
};

// The gateway knows its workers.
absl::Status AwaitReady(const std::string& target) {
  const auto stub = v1::Inference::NewStub(NewChannel(target));
  const Clock::time_point begin = Clock::now();
  while (SecondsSince(begin) < static_cast<double>(kPatience.count())) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + kQuickCall);
    v1::ListModelsResponse models;
    const grpc::Status status = stub->ListModels(&context, {}, &models);
    if (status.ok() && models.models_size() == 1 && models.models(0).ready()) return absl::OkStatus();
    absl::SleepFor(absl::Milliseconds(10));
  }
  return absl::UnavailableError("the gateway does not find its workers");
}

absl::StatusOr<std::unique_ptr<MeasuredProcess>> StartGateway(const GatewayCostOptions& options,
                                                              const std::string& prefill,
                                                              const std::vector<std::string>& decode) {
  std::vector<std::string> command = {options.gateway_program, "--listen", "127.0.0.1:0",   "--metrics", "127.0.0.1:0",
                                      "--prefill-worker",      prefill,    "--max-running", "1000000"};
  for (const std::string& worker : decode) command.insert(command.end(), {"--decode-worker", worker});
  command.insert(command.end(), options.gateway_flags.begin(), options.gateway_flags.end());
  BATON_ASSIGN_OR_RETURN(std::unique_ptr<MeasuredProcess> process,
                         MeasuredProcess::Start(command, options.gateway_core, options.gateway_log));
  BATON_RETURN_IF_ERROR(AwaitReady(process->ready("listen")));
  return process;
}

absl::StatusOr<std::unique_ptr<MeasuredProcess>> StartRelay(const GatewayCostOptions& options,
                                                            const std::string& worker) {
  return MeasuredProcess::Start({options.own_program, "--relay", worker}, options.gateway_core);
}

absl::Status Await(const std::function<bool()>& condition, const std::string& what) {
  const Clock::time_point begin = Clock::now();
  while (!condition()) {
    if (SecondsSince(begin) > static_cast<double>(kPatience.count())) return absl::DeadlineExceededError(what);
    absl::SleepFor(absl::Milliseconds(2));
  }
  return absl::OkStatus();
}

absl::StatusOr<Bench> StartBench(const GatewayCostOptions& options, const InstantWorkersOptions& worker_options) {
  Bench bench;
  BATON_ASSIGN_OR_RETURN(bench.workers, InstantWorkers::Start(worker_options));
  bench.prompt = bench.workers->text_ids();
  std::vector<std::string> decode;
  decode.reserve(static_cast<size_t>(worker_options.decode_workers));
  for (int i = 0; i < worker_options.decode_workers; ++i) decode.push_back(bench.workers->decode(i));
  BATON_ASSIGN_OR_RETURN(bench.process, StartGateway(options, bench.workers->prefill(), decode));
  bench.target = bench.process->ready("listen");
  return bench;
}

InstantWorkersOptions WorkersOf(const GatewayCostOptions& options) {
  InstantWorkersOptions workers;
  workers.model = options.model;
  return workers;
}

v1::GenerateRequest GenerateRequestOf(const std::vector<int32_t>& prompt, int output_tokens) {
  v1::GenerateRequest request;
  request.mutable_tokens()->mutable_ids()->Add(prompt.begin(), prompt.end());
  request.mutable_stopping()->set_max_new_tokens(output_tokens);
  request.mutable_stopping()->set_ignore_eos(true);
  return request;
}

// As the gateway asks (gateway/worker_requests.cc).
template <typename Request>
Request WorkerRequestOf(const InstantWorkers& workers, const std::vector<int32_t>& prompt, int output_tokens) {
  Request request;
  request.set_request_id("bench-gateway-0123456789");
  request.set_fingerprint(workers.fingerprint());
  request.mutable_tokens()->Add(prompt.begin(), prompt.end());
  request.mutable_sampling()->set_top_p(1);
  request.mutable_sampling()->set_typical_p(1);
  request.mutable_sampling()->set_repetition_penalty(1);
  request.mutable_stopping()->set_max_new_tokens(output_tokens);
  return request;
}

template <typename Reader, typename Event>
absl::Status ReadToEnd(Reader* reader, Event* event) {
  while (reader->Read(event)) {
  }
  return FromGrpcStatus(reader->Finish());
}

absl::StatusOr<double> GatewayFirstToken(v1::Inference::Stub* stub, const v1::GenerateRequest& request) {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kQuickCall);
  const Clock::time_point begin = Clock::now();
  const auto reader = stub->GenerateStream(&context, request);
  v1::GenerateEvent event;
  double seconds = -1;
  while (seconds < 0 && reader->Read(&event)) {
    if (event.has_delta()) seconds = SecondsSince(begin);
  }
  BATON_RETURN_IF_ERROR(ReadToEnd(reader.get(), &event));
  if (seconds < 0) return absl::InternalError("a request without a token");
  return seconds;
}

struct WorkerStubs {
  std::unique_ptr<worker::v1::Decode::Stub> decode;
  std::unique_ptr<worker::v1::Prefill::Stub> prefill;
};

// The same calls as the gateway's, one after another.
absl::StatusOr<double> DirectFirstToken(const WorkerStubs& stubs, const worker::v1::DecodeRequest& decode_request,
                                        worker::v1::PrefillRequest prefill_request) {
  grpc::ClientContext decode_context;
  grpc::ClientContext prefill_context;
  decode_context.set_deadline(std::chrono::system_clock::now() + kQuickCall);
  prefill_context.set_deadline(std::chrono::system_clock::now() + kQuickCall);
  const Clock::time_point begin = Clock::now();
  const auto decode = stubs.decode->Run(&decode_context, decode_request);
  worker::v1::DecodeEvent event;
  if (!decode->Read(&event) || !event.has_reservation()) return absl::InternalError("no reservation");
  double seconds = -1;
  if (decode_request.compute_prompt()) {
    if (decode->Read(&event) && event.has_first_token()) seconds = SecondsSince(begin);
  } else {
    prefill_request.mutable_handoff()->set_reservation_id(event.reservation().reservation_id());
    prefill_request.mutable_handoff()->set_endpoint(event.reservation().endpoint());
    const auto prefill = stubs.prefill->Run(&prefill_context, prefill_request);
    worker::v1::PrefillEvent first;
    if (prefill->Read(&first) && first.has_first_token()) seconds = SecondsSince(begin);
    BATON_RETURN_IF_ERROR(ReadToEnd(prefill.get(), &first));
  }
  BATON_RETURN_IF_ERROR(ReadToEnd(decode.get(), &event));
  if (seconds < 0) return absl::InternalError("a request without a token");
  return seconds;
}

}  // namespace

absl::StatusOr<AddedLatency> MeasureLatency(const GatewayCostOptions& options, bool local) {
  InstantWorkersOptions worker_options = WorkersOf(options);
  worker_options.computes_prompts = local;
  BATON_ASSIGN_OR_RETURN(Bench bench, StartBench(options, worker_options));
  if (local) bench.prompt.resize(kLocalPromptTokens);
  const v1::GenerateRequest request = GenerateRequestOf(bench.prompt, 2);
  auto decode_request = WorkerRequestOf<worker::v1::DecodeRequest>(*bench.workers, bench.prompt, 2);
  decode_request.set_compute_prompt(local);
  const auto prefill_request = WorkerRequestOf<worker::v1::PrefillRequest>(*bench.workers, bench.prompt, 2);
  const auto gateway = v1::Inference::NewStub(NewChannel(bench.target));
  WorkerStubs stubs;
  stubs.decode = worker::v1::Decode::NewStub(NewChannel(bench.workers->decode(0)));
  stubs.prefill = worker::v1::Prefill::NewStub(NewChannel(bench.workers->prefill()));
  std::vector<double> through;
  std::vector<double> direct;
  std::vector<double> added;
  const int warmup = options.pairs / 10 + 1;
  for (int i = -warmup; i < options.pairs; ++i) {
    const bool gateway_first = i % 2 == 0;
    double seconds[2];
    for (const bool ask_gateway : {gateway_first, !gateway_first}) {
      absl::SleepFor(absl::Seconds(options.pause_seconds));
      BATON_ASSIGN_OR_RETURN(seconds[ask_gateway], ask_gateway
                                                       ? GatewayFirstToken(gateway.get(), request)
                                                       : DirectFirstToken(stubs, decode_request, prefill_request));
    }
    if (i < 0) continue;
    through.push_back(seconds[1]);
    direct.push_back(seconds[0]);
    added.push_back(seconds[1] - seconds[0]);
  }
  const bool as_meant = (bench.workers->prompts_computed() == 0) == local;
  if (!as_meant) return absl::InternalError("the gateway chose another worker for the prompts than was meant");
  return AddedLatency{Summarize(std::move(through)), Summarize(std::move(direct)), Summarize(std::move(added))};
}

absl::StatusOr<RequestCost> MeasureRequests(const GatewayCostOptions& options, int output_tokens, int callers) {
  BATON_ASSIGN_OR_RETURN(const Bench bench, StartBench(options, WorkersOf(options)));
  const v1::GenerateRequest request = GenerateRequestOf(bench.prompt, output_tokens);
  std::atomic<bool> stop{false};
  std::atomic<int64_t> done{0};
  std::atomic<int64_t> failed{0};
  std::vector<std::thread> threads;
  threads.reserve(static_cast<size_t>(callers));
  for (int i = 0; i < callers; ++i) {
    threads.emplace_back([&, channel = NewChannel(bench.target)] {
      const auto stub = v1::Inference::NewStub(channel);
      while (!stop) {
        grpc::ClientContext context;
        context.set_deadline(std::chrono::system_clock::now() + kQuickCall);
        v1::GenerateResponse response;
        const grpc::Status status = stub->Generate(&context, request, &response);
        const bool good = status.ok() && response.token_ids_size() == output_tokens;
        ++(good ? done : failed);
      }
    });
  }
  absl::SleepFor(absl::Seconds(kWarmupSeconds));
  const double cpu = bench.process->CpuSeconds();
  const int64_t before = done;
  const Clock::time_point begin = Clock::now();
  absl::SleepFor(absl::Seconds(options.seconds));
  RequestCost cost;
  cost.output_tokens = output_tokens;
  const auto requests = static_cast<double>(done - before);
  cost.requests_per_second = requests / SecondsSince(begin);
  cost.requests_per_cpu_second = requests / (bench.process->CpuSeconds() - cpu);
  stop = true;
  for (std::thread& thread : threads) thread.join();
  if (failed > 0) return absl::InternalError(absl::StrCat(failed.load(), " requests failed"));
  return cost;
}

absl::StatusOr<StreamCost> MeasureStreams(const GatewayCostOptions& options, int streams, double tokens_per_second,
                                          bool relay) {
  FramePeersOptions peer_options;
  peer_options.model = options.model;
  peer_options.through_gateway = !relay;
  BATON_ASSIGN_OR_RETURN(const std::unique_ptr<FramePeers> peers, FramePeers::Start(peer_options));
  // Computes nothing, and has to be there.
  BATON_ASSIGN_OR_RETURN(const std::unique_ptr<InstantWorkers> prefill, InstantWorkers::Start(WorkersOf(options)));
  BATON_ASSIGN_OR_RETURN(
      const std::unique_ptr<MeasuredProcess> process,
      relay ? StartRelay(options, peers->worker()) : StartGateway(options, prefill->prefill(), {peers->worker()}));
  BATON_RETURN_IF_ERROR(peers->Open(process->ready("listen"), std::min(options.connections, streams), streams));
  BATON_RETURN_IF_ERROR(
      Await([&] { return peers->counts().begun + peers->counts().ended_badly >= streams; }, "not all streams began"));
  peers->Step(tokens_per_second / streams);
  absl::SleepFor(absl::Seconds(kWarmupSeconds));

  const double cpu = process->CpuSeconds();
  const FramePeers::Counts before = peers->counts();
  const Clock::time_point begin = Clock::now();
  absl::SleepFor(absl::Seconds(options.seconds));
  const double seconds = SecondsSince(begin);
  const double cpu_seconds = process->CpuSeconds() - cpu;
  const FramePeers::Counts after = peers->counts();
  const auto per = [](int64_t tokens, int64_t messages) {
    return static_cast<double>(tokens) / static_cast<double>(std::max<int64_t>(1, messages));
  };
  const int64_t tokens = after.tokens - before.tokens;
  StreamCost cost;
  cost.streams = streams;
  cost.offered = static_cast<double>(after.tokens_sent - before.tokens_sent) / seconds;
  cost.delivered = static_cast<double>(tokens) / seconds;
  cost.cpu_share = cpu_seconds / seconds;
  cost.tokens_per_cpu_second = static_cast<double>(tokens) / cpu_seconds;
  cost.tokens_per_message_in = per(after.tokens_sent - before.tokens_sent, after.messages_sent - before.messages_sent);
  cost.tokens_per_message_out = per(tokens, after.messages - before.messages);
  cost.behind_seconds = static_cast<double>(after.tokens_sent - after.tokens) / std::max(1.0, cost.offered);

  peers->Step(0);
  peers->EndStreams();
  BATON_RETURN_IF_ERROR(Await([&] { return peers->counts().ended_well + peers->counts().ended_badly >= streams; },
                              "not all streams ended"));
  if (peers->counts().ended_badly == 0) return cost;
  return absl::InternalError(absl::StrCat(peers->counts().ended_badly, " streams failed: ", peers->problem()));
}

absl::StatusOr<IdleCost> MeasureIdle(const GatewayCostOptions& options, int streams) {
  BATON_ASSIGN_OR_RETURN(const Bench bench, StartBench(options, WorkersOf(options)));
  StreamLoadOptions load_options;
  load_options.target = bench.target;
  load_options.connections =
      std::max(options.connections, (streams + kStreamsPerConnection - 1) / kStreamsPerConnection);
  load_options.request = GenerateRequestOf(bench.prompt, kEndless);
  load_options.prompt_tokens = static_cast<int64_t>(bench.prompt.size());
  load_options.token_at = [workers = bench.workers.get()](int64_t position) { return workers->TokenAt(position); };
  IdleCost cost;
  cost.streams = streams;
  cost.connections = load_options.connections;
  bench.workers->Hold();
  StreamLoad load(std::move(load_options));
  // One on each connection, so that what is there anyway is.
  load.Open(cost.connections);
  if (!load.AwaitFirstTokens(cost.connections, kPatience)) return absl::InternalError(load.problem());
  absl::SleepFor(absl::Seconds(kWarmupSeconds));
  cost.bytes_before = bench.process->ResidentBytes();
  const Clock::time_point begin = Clock::now();
  load.Open(streams - cost.connections);
  if (!load.AwaitFirstTokens(streams, kPatience)) {
    return absl::InternalError(absl::StrCat(load.begun(), " of ", streams, " streams began: ", load.problem()));
  }
  cost.open_seconds = SecondsSince(begin);
  absl::SleepFor(absl::Seconds(kWarmupSeconds));
  const double cpu = bench.process->CpuSeconds();
  absl::SleepFor(absl::Seconds(options.seconds));
  cost.cpu_share = (bench.process->CpuSeconds() - cpu) / options.seconds;
  cost.bytes_open = bench.process->ResidentBytes();
  cost.bytes_per_stream =
      static_cast<double>(cost.bytes_open - cost.bytes_before) / std::max(1, streams - cost.connections);
  bench.workers->EndStreams();
  const bool ended = load.AwaitEnds(kPatience);
  cost.ended_well = load.ended_well();
  if (!ended || load.ended_badly() > 0) {
    return absl::InternalError(absl::StrCat(cost.ended_well, " of ", streams, " streams ended well: ", load.problem()));
  }
  absl::SleepFor(absl::Seconds(kWarmupSeconds));
  cost.bytes_after = bench.process->ResidentBytes();
  return cost;
}

}  // namespace baton
