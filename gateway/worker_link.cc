#include "gateway/worker_link.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/status_mapping.h"

namespace baton {
namespace {

using worker::v1::Load;
using worker::v1::WorkerInfo;

constexpr size_t kFingerprintBytes = 32;
constexpr size_t kMaxNameBytes = 128;
constexpr size_t kMaxTokenizerBytes = size_t{64} << 20;

bool IsName(const std::string& text) {
  return !text.empty() && text.size() <= kMaxNameBytes && std::all_of(text.begin(), text.end(), absl::ascii_isgraph);
}

}  // namespace

absl::Status CheckWorkerInfo(const WorkerInfo& info, Stage stage) {
  const WorkerInfo::Role wanted = stage == Stage::kPrefill ? WorkerInfo::PREFILL : WorkerInfo::DECODE;
  if (info.role() != wanted) {
    return absl::InvalidArgumentError(absl::StrCat("this is a ", WorkerInfo::Role_Name(info.role()),
                                                   " worker, listed as a ", WorkerInfo::Role_Name(wanted),
                                                   " worker: check --prefill-worker and --decode-worker"));
  }
  if (!IsName(info.boot_id())) return absl::InvalidArgumentError("the worker has no usable boot_id");
  if (!IsName(info.model_name())) return absl::InvalidArgumentError("the worker has no usable model_name");
  if (info.fingerprint().size() != kFingerprintBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("the worker's fingerprint has ", info.fingerprint().size(), " bytes, not ", kFingerprintBytes));
  }
  if (info.vocab_size() < 1 || info.max_tokens() < 1 || info.state_bytes_total() < 0) {
    return absl::InvalidArgumentError("the worker's vocab_size, max_tokens or state_bytes_total makes no sense");
  }
  const worker::v1::StateBytes& bytes = info.state_bytes();
  bool sane = bytes.fixed() >= 0 && bytes.reserve_output() >= 0;
  for (const auto& growth : bytes.growth()) sane = sane && growth.per_token() >= 0 && growth.limit() >= 0;
  if (!sane) return absl::InvalidArgumentError("the worker's state_bytes has negative entries");
  for (int32_t id : info.generation().eos_token_ids()) {
    if (id < 0 || id >= info.vocab_size()) {
      return absl::InvalidArgumentError(absl::StrCat("the worker's eos_token_id ", id, " is outside its vocabulary"));
    }
  }
  return absl::OkStatus();
}

WorkerLink::WorkerLink(std::string endpoint, Stage stage, TokenizerCache* tokenizers, Publish publish,
                       const WorkerLinkOptions& options)
    : tokenizers_(tokenizers), publish_(std::move(publish)), options_(options) {
  snapshot_.connection = std::make_shared<WorkerConnection>(endpoint, options.channel);
  snapshot_.endpoint = std::move(endpoint);
  snapshot_.stage = stage;
  thread_ = std::thread([this] { Loop(); });
}

WorkerLink::~WorkerLink() { Stop(); }

void WorkerLink::BeginStop() {
  std::shared_ptr<Watch> watch;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    calls_.Stop();
    watch = watch_;
    stop_changed_.notify_all();
  }
  if (watch != nullptr) {
    std::lock_guard<std::mutex> lock(watch->mutex);
    watch->ended = true;
    watch->changed.notify_all();
  }
}

void WorkerLink::Stop() {
  BeginStop();
  if (thread_.joinable()) thread_.join();
}

void WorkerLink::Loop() {
  Update([](WorkerSnapshot&) {});
  Clock::duration pause = options_.first_pause;
  bool told = false;
  while (true) {
    bool reached = false;
    const absl::Status status = ConnectAndFollow(&reached);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (stopping_) return;
    }
    if (reached) {
      pause = options_.first_pause;
      told = false;
    }
    if (!told) {
      Log(Severity::kWarning, "worker_unreachable")
          .With("endpoint", snapshot_.endpoint)
          .With("worker_role", StageName(snapshot_.stage))
          .With("error", status);
      told = true;
    }
    Update([&](WorkerSnapshot& snapshot) {
      snapshot.state = WorkerState::kUnreachable;
      snapshot.problem = std::string(status.message());
    });
    if (PauseFor(pause)) return;
    pause = std::min(2 * pause, options_.largest_pause);
  }
}

absl::Status WorkerLink::ConnectAndFollow(bool* reached) {
  BATON_ASSIGN_OR_RETURN(WorkerInfo info, GetInfo());
  BATON_RETURN_IF_ERROR(CheckWorkerInfo(info, snapshot_.stage));
  std::shared_ptr<const Tokenizer> tokenizer;
  if (!info.tokenizer_hash().empty()) {
    BATON_ASSIGN_OR_RETURN(tokenizer, tokenizers_->Get(info.tokenizer_hash(), [this] { return FetchTokenizer(); }));
    if (tokenizer->vocab_size() > info.vocab_size()) {
      return absl::InvalidArgumentError(absl::StrCat("the worker's tokenizer has ", tokenizer->vocab_size(),
                                                     " pieces, its model only ", info.vocab_size()));
    }
  }
  Log(Severity::kInfo, "worker_found")
      .With("endpoint", snapshot_.endpoint)
      .With("worker_role", StageName(snapshot_.stage))
      .With("model", info.model_name())
      .With("boot", info.boot_id());
  auto shared_info = std::make_shared<const WorkerInfo>(std::move(info));
  // Serving only once it has said how busy it is.
  Update([&](WorkerSnapshot& snapshot) {
    snapshot.info = shared_info;
    snapshot.info_time = Clock::now();
    snapshot.tokenizer = tokenizer;
    snapshot.problem.clear();
  });
  return Follow(reached);
}

absl::StatusOr<WorkerInfo> WorkerLink::GetInfo() {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + options_.info_timeout);
  const StoppableCalls::Scope call(&calls_, &context);
  if (!call.ok()) return absl::CancelledError("stopping");
  WorkerInfo info;
  const grpc::Status status = snapshot_.connection->worker->GetInfo(&context, {}, &info);
  if (!status.ok()) return FromGrpcStatus(status);
  return info;
}

absl::StatusOr<std::string> WorkerLink::FetchTokenizer() {
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + options_.tokenizer_timeout);
  const StoppableCalls::Scope call(&calls_, &context);
  if (!call.ok()) return absl::CancelledError("stopping");
  const auto reader = snapshot_.connection->worker->GetTokenizer(&context, {});
  std::string bytes;
  worker::v1::TokenizerPiece piece;
  while (reader->Read(&piece)) {
    bytes.append(piece.data());
    if (bytes.size() > kMaxTokenizerBytes) context.TryCancel();
  }
  const grpc::Status status = reader->Finish();
  if (bytes.size() > kMaxTokenizerBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the worker's tokenizer exceeds ", kMaxTokenizerBytes, " bytes"));
  }
  if (!status.ok()) return FromGrpcStatus(status);
  return bytes;
}

absl::Status WorkerLink::Follow(bool* reached) {
  auto watch = std::make_shared<Watch>();
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (stopping_) return absl::CancelledError("stopping");
    watch_ = watch;
  }
  auto first = std::make_shared<bool>(false);
  // Of this stream alone: the next one begins with everything.
  auto prefixes = std::make_shared<KnownPrefixes>();
  const std::shared_ptr<WorkerConnection> connection = snapshot_.connection;
  const std::shared_ptr<LoadCall> call = LoadCall::Start(
      [&](grpc::ClientContext* context, const worker::v1::WatchLoadRequest* request,
          grpc::ClientReadReactor<Load>* reactor) {
        connection->worker->async()->WatchLoad(context, request, reactor);
      },
      {}, std::chrono::system_clock::time_point::max(),
      [this, watch, first, prefixes](Load& load) {
        // Under the watch's lock, so that nothing is published once the thread has given this stream up.
        std::lock_guard<std::mutex> lock(watch->mutex);
        if (watch->ended) return;
        watch->last_report = Clock::now();
        *first = true;
        OnLoad(load, prefixes);
      },
      [watch](const grpc::Status& status) {
        std::lock_guard<std::mutex> lock(watch->mutex);
        if (watch->ended) return;
        watch->ended = true;
        watch->status =
            status.ok() ? absl::UnavailableError("the worker closed the connection") : FromGrpcStatus(status);
        watch->changed.notify_all();
      });
  std::unique_lock<std::mutex> lock(watch->mutex);
  while (!watch->ended) {
    const Clock::time_point limit = watch->last_report + options_.longest_silence;
    if (Clock::now() >= limit) {
      watch->ended = true;
      watch->status = absl::UnavailableError("the worker has stopped reporting its load");
      break;
    }
    watch->changed.wait_until(lock, limit);
  }
  const absl::Status status = watch->status;
  *reached = *first;
  lock.unlock();
  call->Cancel();
  return status;
}

void WorkerLink::OnLoad(Load& load, const std::shared_ptr<KnownPrefixes>& prefixes) {
  if (load.has_prefixes()) prefixes->Apply(load.prefixes());
  load.clear_prefixes();
  Update([&](WorkerSnapshot& snapshot) {
    snapshot.load = load;
    snapshot.load_time = Clock::now();
    snapshot.prefixes = prefixes;
    snapshot.state = load.draining() ? WorkerState::kDraining : WorkerState::kServing;
    ++snapshot.load_reports;
  });
}

void WorkerLink::Update(const std::function<void(WorkerSnapshot&)>& change) {
  std::lock_guard<std::mutex> lock(snapshot_mutex_);
  change(snapshot_);
  publish_(snapshot_);
}

bool WorkerLink::PauseFor(Clock::duration pause) {
  std::unique_lock<std::mutex> lock(mutex_);
  return stop_changed_.wait_for(lock, pause, [this] { return stopping_; });
}

}  // namespace baton
