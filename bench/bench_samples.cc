// bench_samples: n samples of one prompt, as one request with `n` and as n separate requests, on a running gateway:
// time, and the state memory that the fleet held at most.
//
//   bench_samples --gateway 127.0.0.1:7000 --model gemma2-2b --prompt-tokens 2048 --new-tokens 64 -n 64
//
// The prompt is random token ids, another one for each measurement; EOS is ignored. Memory is what workers report at
// the gateway (Fleet.GetStatus), asked every few milliseconds; a quiet fleet is assumed.
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include <grpcpp/client_context.h>
#include <CLI/CLI.hpp>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "baton/v1/inference.grpc.pb.h"
#include "bench/command_line.h"
#include "common/base/bytes.h"
#include "common/base/status_macros.h"
#include "common/base/version.h"
#include "common/rpc/channel.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

using Clock = std::chrono::steady_clock;

struct Flags {
  std::string gateway = "127.0.0.1:7000";
  std::string model;
  int prompt_tokens = 512;
  int new_tokens = 64;
  int samples = 64;
  uint64_t seed = 1;
};

struct Figures {
  double first_token = 0;  // seconds until every sample has its first one
  double total = 0;
  int64_t tokens = 0;
  int64_t prefill_bytes = 0;  // at most at one time
  int64_t decode_bytes = 0;
};

double Since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// State bytes that workers of a role use now, by the gateway's latest reports.
int64_t StateBytes(const v1::GetStatusResponse& status, const std::string& role) {
  int64_t bytes = 0;
  for (const v1::WorkerStatus& worker : status.workers()) {
    if (worker.role() == role) bytes += worker.state_bytes_used();
  }
  return bytes;
}

// Watches the fleet's memory from construction to Stop.
class MemoryWatch {
 public:
  explicit MemoryWatch(v1::Fleet::Stub* fleet) : thread_([this, fleet] { Watch(fleet); }) {}
  ~MemoryWatch() { Stop(); }
  MemoryWatch(const MemoryWatch&) = delete;
  void Stop() {
    over_ = true;
    if (thread_.joinable()) thread_.join();
  }
  int64_t prefill_bytes = 0;
  int64_t decode_bytes = 0;

 private:
  void Watch(v1::Fleet::Stub* fleet) {
    while (!over_) {
      grpc::ClientContext context;
      v1::GetStatusResponse status;
      if (fleet->GetStatus(&context, {}, &status).ok()) {
        prefill_bytes = std::max(prefill_bytes, StateBytes(status, "prefill"));
        decode_bytes = std::max(decode_bytes, StateBytes(status, "decode"));
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  }
  std::atomic<bool> over_{false};
  std::thread thread_;
};

class Bench {
 public:
  explicit Bench(const Flags& flags)
      : flags_(flags),
        channel_(NewChannel(flags.gateway)),
        stub_(v1::Inference::NewStub(channel_)),
        fleet_(v1::Fleet::NewStub(channel_)) {}

  // The model's name and vocabulary.
  absl::Status Prepare() {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(10));
    v1::ListModelsResponse models;
    BATON_RETURN_IF_ERROR(FromGrpcStatus(stub_->ListModels(&context, {}, &models)));
    for (const v1::ModelCard& card : models.models()) {
      if (card.name() != flags_.model && !(flags_.model.empty() && models.models_size() == 1)) continue;
      flags_.model = card.name();
      vocab_size_ = card.vocab_size();
      if (vocab_size_ <= kFirstId) return absl::InternalError("the gateway reports no vocabulary");
      return absl::OkStatus();
    }
    return absl::NotFoundError(absl::StrCat("no model \"", flags_.model, "\" at ", flags_.gateway,
                                            ": name one that `baton models` lists with --model"));
  }

  absl::StatusOr<Figures> OneRequest() {
    v1::GenerateRequest request = NewRequest();
    request.set_n(flags_.samples);
    return Run({request});
  }
  absl::StatusOr<Figures> SeparateRequests() {
    std::vector<v1::GenerateRequest> requests(static_cast<size_t>(flags_.samples), NewRequest());
    for (size_t i = 0; i < requests.size(); ++i) requests[i].mutable_sampling()->set_seed(flags_.seed + i);
    return Run(requests);
  }

 private:
  static constexpr int32_t kFirstId = 300;  // beyond control tokens and bytes

  v1::GenerateRequest NewRequest() {
    v1::GenerateRequest request;
    request.set_model(flags_.model);
    request.mutable_tokens()->add_ids(2);
    while (request.tokens().ids_size() < flags_.prompt_tokens) {
      request.mutable_tokens()->add_ids(kFirstId + static_cast<int32_t>(random_() % (vocab_size_ - kFirstId)));
    }
    request.mutable_sampling()->set_temperature(1);
    request.mutable_sampling()->set_seed(flags_.seed);
    request.mutable_stopping()->set_max_new_tokens(flags_.new_tokens);
    request.mutable_stopping()->set_ignore_eos(true);
    return request;
  }

  absl::StatusOr<Figures> Run(const std::vector<v1::GenerateRequest>& requests) {
    BATON_RETURN_IF_ERROR(WaitUntilQuiet());
    MemoryWatch watch(fleet_.get());
    const Clock::time_point start = Clock::now();
    Figures figures;
    absl::Status status;
    absl::Mutex mutex;
    std::vector<std::thread> threads;
    threads.reserve(requests.size());
    for (const v1::GenerateRequest& request : requests) {
      threads.emplace_back([&] {
        Figures own;
        const absl::Status ended = RunOne(request, start, &own);
        absl::MutexLock lock(&mutex);
        status.Update(ended);
        figures.first_token = std::max(figures.first_token, own.first_token);
        figures.tokens += own.tokens;
      });
    }
    for (std::thread& thread : threads) thread.join();
    figures.total = Since(start);
    watch.Stop();
    figures.prefill_bytes = watch.prefill_bytes;
    figures.decode_bytes = watch.decode_bytes;
    BATON_RETURN_IF_ERROR(status);
    return figures;
  }

  absl::Status RunOne(const v1::GenerateRequest& request, Clock::time_point start, Figures* figures) {
    grpc::ClientContext context;
    const auto stream = stub_->GenerateStream(&context, request);
    v1::GenerateEvent event;
    std::vector<bool> begun(static_cast<size_t>(std::max(1, request.n())), false);
    while (stream->Read(&event)) {
      if (event.has_finished()) figures->tokens = event.finished().usage().completion_tokens();
      if (!event.has_delta()) continue;
      const size_t choice = static_cast<size_t>(event.delta().choice());
      if (choice >= begun.size() || begun[choice]) continue;
      begun[choice] = true;
      figures->first_token = Since(start);
    }
    return FromGrpcStatus(stream->Finish());
  }

  absl::Status WaitUntilQuiet() {
    const Clock::time_point start = Clock::now();
    while (Since(start) < 30) {
      grpc::ClientContext context;
      v1::GetStatusResponse status;
      BATON_RETURN_IF_ERROR(FromGrpcStatus(fleet_->GetStatus(&context, {}, &status)));
      bool quiet = status.running_requests() == 0 && status.queued_requests() == 0;
      for (const v1::WorkerStatus& worker : status.workers()) quiet &= worker.running() == 0 && worker.queued() == 0;
      if (quiet) return absl::OkStatus();
      std::this_thread::sleep_for(std::chrono::milliseconds(50));
    }
    return absl::UnavailableError("the fleet does not come to rest: somebody else uses it");
  }

  Flags flags_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Inference::Stub> stub_;
  std::unique_ptr<v1::Fleet::Stub> fleet_;
  int32_t vocab_size_ = 0;
  std::mt19937_64 random_{1};
};

void Print(const char* what, const Figures& figures) {
  std::printf("%-22s %9.3f s %9.3f s %9.1f tokens/s %12s %12s\n", what, figures.first_token, figures.total,
              static_cast<double>(figures.tokens) / figures.total, FormatBytes(figures.prefill_bytes).c_str(),
              FormatBytes(figures.decode_bytes).c_str());
}

absl::Status RunBenchmark(const Flags& flags) {
  Bench bench(flags);
  BATON_RETURN_IF_ERROR(bench.Prepare());
  std::printf("%d samples, prompt of %d tokens, %d tokens each\n", flags.samples, flags.prompt_tokens,
              flags.new_tokens);
  std::printf("%-22s %11s %11s %18s %12s %12s\n", "", "all begun", "all done", "", "prefill", "decode");
  BATON_ASSIGN_OR_RETURN(const Figures one, bench.OneRequest());
  Print("one request with n", one);
  BATON_ASSIGN_OR_RETURN(const Figures separate, bench.SeparateRequests());
  Print("separate requests", separate);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  CLI::App app("n samples of one prompt as one request and as n requests: time and state memory.", "bench_samples");
  app.set_version_flag("--version", absl::StrCat("bench_samples ", kVersion));
  Flags flags;
  app.add_option("--gateway", flags.gateway, "Address of the gateway")->envname("BATON_GATEWAY")->capture_default_str();
  app.add_option("--model", flags.model, "Model to ask for. Left out: the only one");
  app.add_option("--prompt-tokens", flags.prompt_tokens)->check(CLI::Range(1, 1 << 20))->capture_default_str();
  app.add_option("--new-tokens", flags.new_tokens, "Of each sample")
      ->check(CLI::Range(2, 1 << 20))
      ->capture_default_str();
  app.add_option("-n,--samples", flags.samples)->check(CLI::Range(1, 128))->capture_default_str();
  app.add_option("--seed", flags.seed)->capture_default_str();
  if (const absl::optional<int> code = ParseCommandLine(app, argc, argv)) return *code;
  return EndProgram(app, RunBenchmark(flags));
}

}  // namespace
}  // namespace baton

int main(int argc, char** argv) { return baton::RunProgram(&baton::Main, argc, argv); }
