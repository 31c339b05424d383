#include "decode/checkpoint_sender.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <utility>

#include "absl/time/clock.h"
#include "baton/worker/v1/worker.grpc.pb.h"
#include "common/base/ids.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/worker_request.h"
#include "common/state/state_pieces.h"

namespace baton {
namespace {

// Smaller states gain nothing by shared memory.
constexpr int64_t kWorthSharingBytes = int64_t{1} << 20;
// After so many failures the pause between attempts grows no more.
constexpr int kMostFailures = 8;
constexpr absl::Duration kDropTimeout = absl::Seconds(2);

}  // namespace

CheckpointSeries::CheckpointSeries(std::string request_id, std::vector<std::string> standbys, int64_t tokens,
                                   int64_t due)
    : request_id_(std::move(request_id)),
      standbys_(std::move(standbys)),
      tokens_(tokens),
      key_(NewSessionKey(RandomBytes(kIdentityBytes))),
      due_(due),
      told_standbys_(standbys_.size(), false) {}

bool CheckpointSeries::TakeCommitted(CommittedCheckpoint* committed) {
  const int64_t last = committed_.load(std::memory_order_acquire);
  if (last == told_) return false;
  told_ = last;
  committed->position = last / kMaxStandbys;
  committed->standby = static_cast<int>(last % kMaxStandbys);
  return true;
}

CheckpointSender::CheckpointSender(const CheckpointSenderOptions& options, const Fingerprint& fingerprint,
                                   CheckpointMetrics* metrics)
    : options_(options),
      fingerprint_(fingerprint),
      metrics_(metrics),
      peers_(options.credit_bytes, options.channel),
      thread_([this] { Loop(); }) {}

CheckpointSender::~CheckpointSender() {
  {
    absl::MutexLock lock(&inbox_->mutex);
    inbox_->stopping = true;
  }
  thread_.join();
}

CheckpointLease::~CheckpointLease() {
  if (series_ != nullptr) sender_->End(std::move(series_));
}

CheckpointLease CheckpointSender::Begin(std::string request_id, std::vector<std::string> standbys, int64_t generated) {
  BATON_CHECK(!standbys.empty() && static_cast<int>(standbys.size()) <= kMaxStandbys);
  std::shared_ptr<CheckpointSeries> series(
      new CheckpointSeries(std::move(request_id), std::move(standbys), options_.tokens, generated + options_.tokens));
  return CheckpointLease(this, std::move(series));
}

void CheckpointSender::Send(const CheckpointLease& lease, int64_t generated, SequenceState state, int32_t next_token) {
  CheckpointSeries& series = *lease.series_;
  series.due_ = generated + series.tokens_ * (1 + series.failures_.load(std::memory_order_relaxed));
  series.sent_ = true;
  series.in_flight_.store(true, std::memory_order_release);
  Task task;
  task.series = lease.series_;
  task.state = std::shared_ptr<const SequenceState>(new SequenceState(std::move(state)),
                                                    [on_freed = options_.on_freed](const SequenceState* copy) {
                                                      delete copy;
                                                      on_freed();
                                                    });
  task.next_token = next_token;
  absl::MutexLock lock(&inbox_->mutex);
  inbox_->tasks.push_back(std::move(task));
}

void CheckpointSender::Skip(const CheckpointLease& lease, int64_t generated) {
  metrics_->skipped.Increment();
  lease.series_->due_ = generated + lease.series_->tokens_;
}

void CheckpointSender::End(std::shared_ptr<CheckpointSeries> series) {
  Task task;
  task.series = std::move(series);
  task.ended = true;
  absl::MutexLock lock(&inbox_->mutex);
  inbox_->tasks.push_back(std::move(task));
}

void CheckpointSender::Loop() {
  for (Task task; Next(&task); task = Task()) Run(std::move(task));
}

bool CheckpointSender::Next(Task* task) {
  const auto has_task = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(inbox_->mutex) {
    return inbox_->stopping || !inbox_->tasks.empty();
  };
  // Once stopping: what is on its way ends, and the last calls are answered.
  const auto all_over = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(inbox_->mutex) {
    return !inbox_->tasks.empty() || (transferring_.empty() && inbox_->drops == 0);
  };
  while (true) {
    {
      absl::MutexLock lock(&inbox_->mutex);
      inbox_->mutex.Await(cancelled_ ? absl::Condition(&all_over) : absl::Condition(&has_task));
      if (cancelled_ || !inbox_->stopping) {
        if (inbox_->tasks.empty()) return false;
        *task = std::move(inbox_->tasks.front());
        inbox_->tasks.pop_front();
        return true;
      }
    }
    // A call may end while it is cancelled, and say so.
    for (const auto& series : transferring_) series->transfer_->Cancel();
    cancelled_ = true;
  }
}

void CheckpointSender::Run(Task task) {
  CheckpointSeries& series = *task.series;
  if (series.transfer_ != nullptr && series.transfer_->over()) Over(series);
  if (task.state != nullptr) return Transfer(task);
  series.ended_ |= task.ended;
  // What is on its way arrives, so that the standby has it when it is told to drop it.
  if (series.ended_ && series.transfer_ == nullptr) Drop(series);
}

void CheckpointSender::Transfer(Task& task) {
  CheckpointSeries& series = *task.series;
  if (cancelled_) return;
  const SequenceState& state = *task.state;
  series.position_ = state.position();
  series.told_standbys_[series.standby_] = true;
  worker::v1::StateChunk head;
  *head.mutable_checkpoint()->mutable_key() = series.key_;
  head.mutable_checkpoint()->set_position(state.position());
  HandoffSenderOptions options;
  options.request_id = series.request_id_;
  options.deadline = absl::ToChronoTime(absl::Now() + options_.timeout);
  options.offer_shared_memory = state.layout().BytesFor(state.position()) >= kWorthSharingBytes;
  StateCutter cutter(state.layout(), state.position());
  std::vector<StatePiece> pieces;
  cutter.AllLayersDone(state, &pieces);
  const auto wake = [inbox = inbox_, series = task.series] {
    Task over;
    over.series = series;
    absl::MutexLock lock(&inbox->mutex);
    inbox->tasks.push_back(std::move(over));
  };
  transferring_.push_back(task.series);
  series.transfer_ = HandoffSender::Start(
      peers_.Get(series.standbys_[series.standby_], absl::Now()), head,
      {fingerprint_, state.shared_layout(), state.position(), std::move(task.state)}, options, wake);
  series.transfer_->Send(std::move(pieces));
  FirstTokenRecord next;
  next.id = task.next_token;
  series.transfer_->Commit({next});
}

void CheckpointSender::Over(CheckpointSeries& series) {
  const HandoffOutcome outcome = series.transfer_->outcome();
  series.transfer_.reset();
  transferring_.erase(std::find_if(transferring_.begin(), transferring_.end(),
                                   [&](const auto& other) { return other.get() == &series; }));
  metrics_->sent_bytes.Increment(static_cast<double>(outcome.bytes));
  if (outcome.status.ok() && outcome.position == series.position_) {
    metrics_->committed.Increment();
    series.failures_.store(0, std::memory_order_relaxed);
    series.committed_.store(series.position_ * kMaxStandbys + static_cast<int64_t>(series.standby_),
                            std::memory_order_release);
  } else {
    metrics_->failed.Increment();
    Log(Severity::kInfo, "checkpoint_failed")
        .With("request_id", series.request_id_)
        .With("standby", series.standbys_[series.standby_])
        .With("error", outcome.status);
    if (absl::IsUnavailable(outcome.status)) peers_.Forget(series.standbys_[series.standby_]);
    series.failures_.store(std::min(kMostFailures, series.failures_.load(std::memory_order_relaxed) + 1),
                           std::memory_order_relaxed);
    series.standby_ = (series.standby_ + 1) % series.standbys_.size();
  }
  series.in_flight_.store(false, std::memory_order_release);
}

void CheckpointSender::Drop(CheckpointSeries& series) {
  struct Call {
    std::unique_ptr<worker::v1::Decode::Stub> stub;
    grpc::ClientContext context;
    worker::v1::DropCheckpointRequest request;
    worker::v1::DropCheckpointResponse response;
  };
  for (size_t i = 0; i < series.standbys_.size(); ++i) {
    if (!series.told_standbys_[i]) continue;
    series.told_standbys_[i] = false;
    auto call = std::make_shared<Call>();
    call->stub = worker::v1::Decode::NewStub(peers_.Get(series.standbys_[i], absl::Now())->channel);
    call->context.set_deadline(absl::ToChronoTime(absl::Now() + kDropTimeout));
    *call->request.mutable_key() = series.key_;
    {
      absl::MutexLock lock(&inbox_->mutex);
      ++inbox_->drops;
    }
    Call& at = *call;
    // One that does not hear of it lets the copy expire.
    at.stub->async()->DropCheckpoint(&at.context, &at.request, &at.response,
                                     [call = std::move(call), inbox = inbox_](const grpc::Status&) {
                                       absl::MutexLock lock(&inbox->mutex);
                                       --inbox->drops;
                                     });
  }
}

}  // namespace baton
