#include "common/rpc/worker_service.h"

#include <algorithm>
#include <cstddef>
#include <limits>
#include <map>

#include "absl/time/clock.h"
#include "common/base/version.h"

namespace baton {
namespace {

using worker::v1::Load;
using worker::v1::StateBytes;
using worker::v1::TokenizerPiece;
using worker::v1::WorkerInfo;

constexpr size_t kTokenizerPieceBytes = size_t{1} << 20;
constexpr absl::Duration kWatchInterval = absl::Milliseconds(100);
constexpr absl::Duration kWatchAtLeastEvery = absl::Seconds(1);
constexpr absl::Duration kRateWindow = absl::Seconds(1);
// A watcher that reads more slowly than this misses updates, not the latest load.
constexpr size_t kMaxQueuedLoads = 2;

// Streams the tokenizer; deletes itself.
class TokenizerWriter final : public grpc::ServerWriteReactor<TokenizerPiece> {
 public:
  explicit TokenizerWriter(absl::string_view rest) : rest_(rest) { WriteNext(); }

  void OnWriteDone(bool ok) override {
    if (!ok) return Finish(grpc::Status(grpc::StatusCode::CANCELLED, "the caller went away"));
    WriteNext();
  }
  void OnDone() override { delete this; }

 private:
  void WriteNext() {
    if (rest_.empty()) return Finish(grpc::Status::OK);
    const size_t size = std::min(rest_.size(), kTokenizerPieceBytes);
    piece_.set_data(rest_.data(), size);
    rest_.remove_prefix(size);
    StartWrite(&piece_);
  }

  absl::string_view rest_;
  TokenizerPiece piece_;
};

void FillGeneration(const GenerationConfig& config, worker::v1::Generation* out) {
  out->set_bos_token_id(config.bos_token_id);
  out->set_pad_token_id(config.pad_token_id);
  for (int32_t id : config.eos_token_ids) out->add_eos_token_ids(id);
  if (config.temperature >= 0) out->set_temperature(config.temperature);
  if (config.top_k >= 0) out->set_top_k(config.top_k);
  if (config.top_p >= 0) out->set_top_p(config.top_p);
  if (config.max_new_tokens >= 0) out->set_max_new_tokens(config.max_new_tokens);
  if (config.repetition_penalty >= 0) out->set_repetition_penalty(config.repetition_penalty);
  if (config.do_sample >= 0) out->set_do_sample(config.do_sample == 1);
}

bool SameLoad(const Load& a, const Load& b) {
  return a.draining() == b.draining() && a.running() == b.running() && a.queued() == b.queued() &&
         a.queued_tokens() == b.queued_tokens() && a.state_bytes_used() == b.state_bytes_used();
}

}  // namespace

Load LoadReporter::Snapshot() const {
  Load load;
  load.set_draining(draining_.load(std::memory_order_relaxed));
  load.set_running(running_.load(std::memory_order_relaxed));
  load.set_queued(queued_.load(std::memory_order_relaxed));
  load.set_queued_tokens(queued_tokens_.load(std::memory_order_relaxed));
  load.set_kept_sessions(kept_sessions_.count.load(std::memory_order_relaxed));
  load.set_kept_session_bytes(kept_sessions_.bytes.load(std::memory_order_relaxed));
  load.set_checkpoints(checkpoints_.count.load(std::memory_order_relaxed));
  load.set_checkpoint_bytes(checkpoints_.bytes.load(std::memory_order_relaxed));
  const int64_t reclaimable = load.kept_session_bytes() + load.checkpoint_bytes();
  load.set_state_bytes_used(std::max<int64_t>(0, budget_->used() - reclaimable));
  load.set_state_bytes_total(budget_->total());
  load.set_tokens_done(tokens_done());
  load.set_steps_done(steps_done_.load(std::memory_order_relaxed));
  load.set_step_sequences(step_sequences_.load(std::memory_order_relaxed));
  load.set_prompt_tokens_computed(prompt_tokens_computed_.load(std::memory_order_relaxed));
  load.set_prompt_tokens_cached(prompt_tokens_cached_.load(std::memory_order_relaxed));
  return load;
}

StateBytes MakeStateBytes(const StateLayout& layout) {
  constexpr int64_t kMaxTokens = std::numeric_limits<int64_t>::max();
  int64_t fixed = 0;
  std::map<int64_t, int64_t> per_token_by_limit;
  const int64_t element = ElementBytes(layout.element);
  for (const LayerStateSpec& layer : layout.layers) {
    const int64_t row = 2 * int64_t{layer.kv_heads} * layer.head_dim * element;
    switch (layer.kind) {
      case LayerStateSpec::Kind::kGlobalKv:
        per_token_by_limit[0] += row;
        break;
      case LayerStateSpec::Kind::kWindowKv:
        per_token_by_limit[layout.KvPages(layer, kMaxTokens) * layout.page_tokens] += row;
        break;
      case LayerStateSpec::Kind::kRecurrent:
        fixed += layout.LayerBytes(layer, 1);
        break;
    }
  }
  StateBytes out;
  out.set_fixed(fixed);
  out.set_page_tokens(layout.page_tokens);
  for (const auto& [limit, per_token] : per_token_by_limit) {
    StateBytes::Growth* growth = out.add_growth();
    growth->set_per_token(per_token);
    growth->set_limit(limit);
  }
  return out;
}

WorkerInfo MakeWorkerInfo(const WorkerIdentity& identity, const Model& model, const StateLayout& layout) {
  WorkerInfo info;
  info.set_role(identity.role);
  info.set_boot_id(identity.boot_id);
  info.set_model_name(identity.model_name);
  const absl::string_view family = FamilyName(model.config().family);
  info.set_family(family.data(), family.size());
  info.set_fingerprint(model.fingerprint().ToBytes());
  const absl::string_view compute = ComputeModeName(model.compute());
  info.set_compute(compute.data(), compute.size());
  const absl::string_view weights = WeightPrecisionName(model.weights());
  info.set_weights(weights.data(), weights.size());
  info.set_vocab_size(static_cast<int32_t>(model.config().vocab_size));
  info.set_max_tokens(identity.max_tokens);
  info.set_parameters(model.parameters());
  info.set_state_bytes_total(identity.state_bytes_total);
  FillGeneration(model.generation(), info.mutable_generation());
  // A checkpoint without a tokenizer serves token ids only.
  if (!model.tokenizer().empty()) info.set_tokenizer_hash(TokenizerHash(model.tokenizer()));
  info.set_version(kVersion);
  *info.mutable_state_bytes() = MakeStateBytes(layout);
  info.mutable_state_bytes()->set_reserve_output(identity.reserve_output);
  info.set_local_prefill_chunk(identity.local_prefill_chunk);
  info.set_checkpoint_tokens(identity.checkpoint_tokens);
  info.set_checkpoint_bytes(identity.checkpoint_bytes);
  return info;
}

WorkerService::WorkerService(WorkerInfo info, absl::string_view tokenizer, const LoadReporter* load,
                             std::shared_ptr<const Tracing> tracing)
    : tokenizer_(tokenizer), load_(load), tracing_(std::move(tracing)), started_(absl::Now()), info_(std::move(info)) {
  watch_thread_ = std::thread([this] { WatchLoop(); });
}

WorkerService::~WorkerService() {
  EndWatches();
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  watch_thread_.join();
}

grpc::ServerUnaryReactor* WorkerService::GetInfo(grpc::CallbackServerContext* context,
                                                 const worker::v1::GetInfoRequest* request, WorkerInfo* response) {
  {
    absl::MutexLock lock(&mutex_);
    *response = info_;
  }
  response->set_uptime_seconds(absl::ToDoubleSeconds(absl::Now() - started_));
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerUnaryReactor* WorkerService::GetSpans(grpc::CallbackServerContext* context,
                                                  const worker::v1::GetSpansRequest* request,
                                                  worker::v1::GetSpansResponse* response) {
  if (tracing_ != nullptr)
    *response->mutable_spans() = tracing_->Remembered(request->request_id(), request->trace_id());
  grpc::ServerUnaryReactor* reactor = context->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

grpc::ServerWriteReactor<TokenizerPiece>* WorkerService::GetTokenizer(grpc::CallbackServerContext* context,
                                                                      const worker::v1::GetTokenizerRequest* request) {
  return new TokenizerWriter(tokenizer_);
}

grpc::ServerWriteReactor<Load>* WorkerService::WatchLoad(grpc::CallbackServerContext* context,
                                                         const worker::v1::WatchLoadRequest* request) {
  auto* reactor = new EventWriter<Load>(kMaxQueuedLoads, nullptr);
  Watcher watcher{reactor->handle()};
  Tell(watcher, load_->Snapshot());
  absl::MutexLock lock(&mutex_);
  if (watches_ended_) {
    watcher.handle->Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the worker is stopping"));
  } else {
    watchers_.push_back(std::move(watcher));
  }
  return reactor;
}

void WorkerService::Tell(Watcher& watcher, Load load) const {
  uint64_t told = watcher.told_prefixes;
  if (load_->prefixes().version() != told) load_->prefixes().Describe(&told, load.mutable_prefixes());
  if (watcher.handle->Push(std::move(load))) watcher.told_prefixes = told;
}

void WorkerService::SetEndpoint(const std::string& endpoint) {
  absl::MutexLock lock(&mutex_);
  info_.set_endpoint(endpoint);
}

void WorkerService::EndWatches() {
  std::vector<Watcher> watchers;
  {
    absl::MutexLock lock(&mutex_);
    watches_ended_ = true;
    watchers.swap(watchers_);
  }
  for (const Watcher& watcher : watchers) {
    watcher.handle->Push(load_->Snapshot());
    watcher.handle->Finish(grpc::Status(grpc::StatusCode::UNAVAILABLE, "the worker is stopping"));
  }
}

Load WorkerService::CurrentLoad(absl::Time now) {
  Load load = load_->Snapshot();
  token_counts_.emplace_back(now, load_->tokens_done());
  while (token_counts_.size() > 2 && now - token_counts_[1].first >= kRateWindow) token_counts_.pop_front();
  const absl::Duration elapsed = now - token_counts_.front().first;
  if (elapsed > absl::ZeroDuration()) {
    const int64_t tokens = token_counts_.back().second - token_counts_.front().second;
    load.set_tokens_per_second(static_cast<double>(tokens) / absl::ToDoubleSeconds(elapsed));
  }
  return load;
}

void WorkerService::WatchLoop() {
  Load last_pushed;
  uint64_t last_prefixes = 0;
  absl::Time last_push_time = absl::InfinitePast();
  absl::MutexLock lock(&mutex_);
  while (true) {
    mutex_.Await(absl::Condition(this, &WorkerService::WakeWatcher));
    if (stopping_) return;
    const absl::Time now = absl::Now();
    const Load load = CurrentLoad(now);
    const uint64_t prefixes = load_->prefixes().version();
    if (!SameLoad(load, last_pushed) || prefixes != last_prefixes || now - last_push_time >= kWatchAtLeastEvery) {
      last_pushed = load;
      last_prefixes = prefixes;
      last_push_time = now;
      for (Watcher& watcher : watchers_) Tell(watcher, load);
    }
    watchers_.erase(std::remove_if(watchers_.begin(), watchers_.end(),
                                   [](const Watcher& watcher) { return watcher.handle->cancelled(); }),
                    watchers_.end());
    mutex_.AwaitWithTimeout(absl::Condition(this, &WorkerService::Stopping), kWatchInterval);
    if (stopping_) return;
  }
}

}  // namespace baton
