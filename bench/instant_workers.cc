#include "bench/instant_workers.h"

#include <atomic>
#include <map>
#include <utility>

#include <grpcpp/grpcpp.h>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/base/ids.h"
#include "common/base/mapped_file.h"
#include "common/base/status_macros.h"
#include "common/rpc/event_writer.h"
#include "common/rpc/server.h"
#include "common/rpc/worker_service.h"
#include "common/state/memory_budget.h"
#include "common/text/tokenizer.h"

namespace baton {
namespace {

using worker::v1::DecodeEvent;
using worker::v1::DecodeRequest;
using worker::v1::PrefillEvent;
using worker::v1::PrefillRequest;
using worker::v1::WorkerInfo;

constexpr int64_t kStateBytes = int64_t{1} << 40;
constexpr int64_t kMaxTokens = int64_t{1} << 30;
constexpr int kLocalPrefillChunk = 64;
// Messages of a stream that is told all its tokens at once.
constexpr size_t kMaxQueuedEvents = 1 << 20;
constexpr char kText[] =
    "The lighthouse keeper climbed the stairs every evening, counted the ships that passed between the rocks and the "
    "open sea, and wrote their names into a book. \xC3\x9C"
    "ber den Wolken, in 2024, it said, 17 of them came home.\n";

// One Decode.Run call.
struct Stream {
  Stream(std::shared_ptr<EventWriter<DecodeEvent>::Handle> events_in, int64_t position_in, int64_t remaining_in)
      : events(std::move(events_in)), position(position_in), remaining(remaining_in) {}
  const std::shared_ptr<EventWriter<DecodeEvent>::Handle> events;
  // Of the next token, and how many there are yet. Guarded by the workers' mutex.
  int64_t position;
  int64_t remaining;
};

}  // namespace

absl::StatusOr<InstantWorkerModel> ReadInstantWorkerModel(const std::string& directory) {
  InstantWorkerModel model;
  BATON_ASSIGN_OR_RETURN(model.tokenizer_bytes, ReadFile(directory + "/tokenizer.model"));
  BATON_ASSIGN_OR_RETURN(const std::unique_ptr<Tokenizer> tokenizer, Tokenizer::FromModel(model.tokenizer_bytes));
  model.vocab_size = tokenizer->vocab_size();
  model.bos_id = tokenizer->bos_id();
  model.eos_id = tokenizer->eos_id();
  BATON_ASSIGN_OR_RETURN(model.text_ids, tokenizer->Encode(kText));
  return model;
}

WorkerInfo InstantWorkerInfo(const InstantWorkerModel& model, WorkerInfo::Role role, bool computes_prompts) {
  WorkerInfo info;
  info.set_role(role);
  info.set_boot_id(NewBootId());
  info.set_model_name("instant");
  info.set_family("gemma2");
  info.set_fingerprint(std::string(32, 'i'));
  info.set_compute("bf16");
  info.set_weights("int8");
  info.set_vocab_size(model.vocab_size);
  info.set_max_tokens(kMaxTokens);
  info.set_parameters(1);
  info.set_state_bytes_total(kStateBytes);
  info.set_tokenizer_hash(TokenizerHash(model.tokenizer_bytes));
  info.mutable_generation()->set_bos_token_id(model.bos_id);
  info.mutable_generation()->add_eos_token_ids(model.eos_id);
  info.mutable_generation()->set_do_sample(false);
  info.mutable_state_bytes()->set_fixed(1);
  if (computes_prompts) info.set_local_prefill_chunk(kLocalPrefillChunk);
  return info;
}

struct InstantWorkers::Impl {
  // The edge that every worker has.
  struct Edge {
    Edge(WorkerInfo info, const std::string& tokenizer) : service(std::move(info), tokenizer, &load) {
      RpcServerOptions options;
      options.max_receive_bytes = 64 << 20;
      // One worker stands for as many as it takes.
      options.limits.max_streams_per_connection = 1 << 20;
      server = std::make_unique<RpcServer>(options);
      server->AddService(&service);
    }
    ~Edge() {
      service.EndWatches();
      server->Stop(absl::ZeroDuration());
    }
    MemoryBudget budget{kStateBytes};
    LoadReporter load{&budget};
    WorkerService service;
    std::unique_ptr<RpcServer> server;
  };

  class Decode final : public worker::v1::Decode::CallbackService {
   public:
    Decode(Impl* all, int index) : all_(all), index_(index) {}
    grpc::ServerWriteReactor<DecodeEvent>* Run(grpc::CallbackServerContext*, const DecodeRequest* request) override {
      return all_->RunDecode(index_, *request);
    }

   private:
    Impl* const all_;
    const int index_;
  };

  class Prefill final : public worker::v1::Prefill::CallbackService {
   public:
    explicit Prefill(Impl* all) : all_(all) {}
    grpc::ServerWriteReactor<PrefillEvent>* Run(grpc::CallbackServerContext*, const PrefillRequest* request) override {
      return all_->RunPrefill(*request);
    }

   private:
    Impl* const all_;
  };

  ~Impl() {
    prefill_edge.reset();
    decode_edges.clear();
  }

  grpc::ServerWriteReactor<DecodeEvent>* RunDecode(int index, const DecodeRequest& request) {
    uint64_t id;
    {
      absl::MutexLock lock(&mutex);
      id = ++last_id;
    }
    auto* const writer = new EventWriter<DecodeEvent>(kMaxQueuedEvents, [this, id] {
      absl::MutexLock lock(&mutex);
      reserved.erase(id);
      held.erase(id);
    });
    DecodeEvent event;
    event.mutable_reservation()->set_reservation_id(id);
    event.mutable_reservation()->set_generation(1);
    event.mutable_reservation()->set_boot_id(boot_ids[static_cast<size_t>(index)]);
    event.mutable_reservation()->set_endpoint(decode_edges[static_cast<size_t>(index)]->server->address());
    event.mutable_reservation()->set_bytes(1);
    // Kept by a name of its own: the reactor may be gone once it has something to write.
    const auto events = writer->handle();
    auto stream = std::make_shared<Stream>(events, request.tokens_size() + 1, request.stopping().max_new_tokens() - 1);
    {
      absl::MutexLock lock(&mutex);
      reserved.emplace(id, stream);
    }
    events->Push(std::move(event));
    if (!request.compute_prompt()) return writer;
    DecodeEvent first;
    first.mutable_first_token()->set_id(TokenAt(request.tokens_size()));
    events->Push(std::move(first));
    Begin(id);
    return writer;
  }

  grpc::ServerWriteReactor<PrefillEvent>* RunPrefill(const PrefillRequest& request) {
    ++prompts;
    auto* const writer = new EventWriter<PrefillEvent>(4, nullptr);
    const auto events = writer->handle();
    PrefillEvent first;
    first.mutable_first_token()->set_id(TokenAt(request.tokens_size()));
    events->Push(std::move(first));
    PrefillEvent done;
    done.mutable_done()->set_compute_seconds(1e-6);
    events->Push(std::move(done));
    events->Finish(grpc::Status::OK);
    if (request.has_handoff()) Begin(request.handoff().reservation_id());
    return writer;
  }

  // The stream's state is there.
  void Begin(uint64_t id) {
    absl::MutexLock lock(&mutex);
    const auto found = reserved.find(id);
    if (found == reserved.end()) return;
    const std::shared_ptr<Stream> stream = found->second;
    reserved.erase(found);
    if (holding) {
      held.emplace(id, stream);
      return;
    }
    for (; stream->remaining > 0; --stream->remaining) {
      DecodeEvent event;
      worker::v1::TokenChunk* const chunk = event.mutable_progress()->add_tokens();
      chunk->set_position(stream->position);
      chunk->add_ids(TokenAt(stream->position++));
      stream->events->Push(std::move(event));
    }
    End(*stream);
  }

  static void End(Stream& stream) {
    DecodeEvent event;
    event.mutable_progress()->add_done()->set_reason(worker::v1::LENGTH);
    stream.events->Push(std::move(event));
    stream.events->Finish(grpc::Status::OK);
  }

  int32_t TokenAt(int64_t position) const { return text_ids[static_cast<size_t>(position) % text_ids.size()]; }

  std::string tokenizer_bytes;
  std::vector<int32_t> text_ids;
  std::string fingerprint;
  std::vector<std::string> boot_ids;
  std::unique_ptr<Prefill> prefill_service;
  std::vector<std::unique_ptr<Decode>> decode_services;
  std::unique_ptr<Edge> prefill_edge;
  std::vector<std::unique_ptr<Edge>> decode_edges;

  absl::Mutex mutex;
  bool holding ABSL_GUARDED_BY(mutex) = false;
  uint64_t last_id ABSL_GUARDED_BY(mutex) = 0;
  // By reservation: before their state is there, and after.
  std::map<uint64_t, std::shared_ptr<Stream>> reserved ABSL_GUARDED_BY(mutex);
  std::map<uint64_t, std::shared_ptr<Stream>> held ABSL_GUARDED_BY(mutex);
  std::atomic<int64_t> prompts{0};
};

InstantWorkers::InstantWorkers(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
InstantWorkers::~InstantWorkers() = default;

absl::StatusOr<std::unique_ptr<InstantWorkers>> InstantWorkers::Start(const InstantWorkersOptions& options) {
  auto impl = std::make_unique<Impl>();
  BATON_ASSIGN_OR_RETURN(InstantWorkerModel model, ReadInstantWorkerModel(options.model));
  impl->tokenizer_bytes = model.tokenizer_bytes;
  impl->text_ids = model.text_ids;
  const WorkerInfo prefill_info = InstantWorkerInfo(model, WorkerInfo::PREFILL, /*computes_prompts=*/false);
  impl->fingerprint = prefill_info.fingerprint();
  impl->prefill_edge = std::make_unique<Impl::Edge>(prefill_info, impl->tokenizer_bytes);
  impl->prefill_service = std::make_unique<Impl::Prefill>(impl.get());
  impl->prefill_edge->server->AddService(impl->prefill_service.get());
  for (int i = 0; i < options.decode_workers; ++i) {
    WorkerInfo info = InstantWorkerInfo(model, WorkerInfo::DECODE, options.computes_prompts);
    impl->boot_ids.push_back(info.boot_id());
    impl->decode_edges.push_back(std::make_unique<Impl::Edge>(std::move(info), impl->tokenizer_bytes));
    impl->decode_services.push_back(std::make_unique<Impl::Decode>(impl.get(), i));
    impl->decode_edges.back()->server->AddService(impl->decode_services.back().get());
  }
  BATON_RETURN_IF_ERROR(impl->prefill_edge->server->Start());
  for (const auto& edge : impl->decode_edges) BATON_RETURN_IF_ERROR(edge->server->Start());
  return std::unique_ptr<InstantWorkers>(new InstantWorkers(std::move(impl)));
}

std::string InstantWorkers::prefill() const { return impl_->prefill_edge->server->address(); }
std::string InstantWorkers::decode(int worker) const {
  return impl_->decode_edges[static_cast<size_t>(worker)]->server->address();
}
const std::vector<int32_t>& InstantWorkers::text_ids() const { return impl_->text_ids; }
const std::string& InstantWorkers::fingerprint() const { return impl_->fingerprint; }
int32_t InstantWorkers::TokenAt(int64_t position) const { return impl_->TokenAt(position); }

void InstantWorkers::Hold() {
  absl::MutexLock lock(&impl_->mutex);
  impl_->holding = true;
}

void InstantWorkers::EndStreams() {
  absl::MutexLock lock(&impl_->mutex);
  for (auto& [id, stream] : impl_->held) Impl::End(*stream);
  impl_->held.clear();
}

int64_t InstantWorkers::prompts_computed() const { return impl_->prompts; }

}  // namespace baton
