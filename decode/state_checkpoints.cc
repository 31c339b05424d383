#include "decode/state_checkpoints.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/bytes.h"
#include "common/base/status_macros.h"

namespace baton {
namespace {

absl::Status NoCheckpoint() {
  return absl::NotFoundError("there is no such copy of a state here: it was taken, dropped, or never was");
}

}  // namespace

IncomingCheckpoint::~IncomingCheckpoint() {
  reader_.reset();
  state_.reset();
  owner_->Forget(*this);
}

absl::Status IncomingCheckpoint::Keep() {
  if (commit()->position != position_) {
    return absl::InvalidArgumentError(
        absl::StrCat("the state is at position ", commit()->position, ", not at ", position_));
  }
  return owner_->Keep(*this);
}

StateCheckpoints::StateCheckpoints(const CheckpointOptions& options, std::shared_ptr<const StateLayout> layout,
                                   const Fingerprint& fingerprint, MemoryBudget* budget, CheckpointMetrics* metrics,
                                   std::function<void(int64_t count, int64_t bytes)> on_change)
    : options_(options),
      layout_(std::move(layout)),
      fingerprint_(fingerprint),
      budget_(budget),
      metrics_(metrics),
      on_change_(std::move(on_change)) {
  if (options_.memory_bytes > 0) thread_ = std::thread([this] { Loop(); });
}

StateCheckpoints::~StateCheckpoints() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

absl::StatusOr<std::unique_ptr<IncomingCheckpoint>> StateCheckpoints::Begin(const SessionKey& key, int64_t position) {
  if (options_.memory_bytes == 0) {
    return absl::FailedPreconditionError("this worker keeps no copies of states (--checkpoint-memory 0)");
  }
  if (position < 1 || position >= options_.max_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("no running sequence has consumed ", position, " of at most ", options_.max_tokens, " tokens"));
  }
  // A reader wants room to continue.
  const int64_t tokens = position + 1;
  const int64_t bytes = layout_->BytesFor(tokens);

  absl::MutexLock lock(&mutex_);
  if (incoming_.count(key.id) > 0) return absl::AlreadyExistsError("a copy of this state is already on its way");
  const auto held = entries_.find(key.id);
  if (held != entries_.end()) {
    if (held->second.identity != key.identity) return NoCheckpoint();
    if (held->second.state.position() >= position) return absl::AlreadyExistsError("there is a newer copy");
  }
  if (!EvictFor(bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat("a copy of ", FormatBytes(bytes), " does not fit the ",
                                                     FormatBytes(options_.memory_bytes), " for copies"));
  }
  BATON_ASSIGN_OR_RETURN(SequenceState state, SequenceState::Create(layout_, *budget_, tokens));
  std::unique_ptr<IncomingCheckpoint> incoming(new IncomingCheckpoint(this, key, position, bytes));
  incoming->state_.emplace(std::move(state));
  incoming->reader_.emplace(fingerprint_, &*incoming->state_);
  incoming_[key.id] = incoming.get();
  incoming_bytes_ += bytes;
  return incoming;
}

bool StateCheckpoints::EvictFor(int64_t bytes) {
  if (bytes > options_.memory_bytes - incoming_bytes_) return false;
  while (bytes_ > options_.memory_bytes - incoming_bytes_ - bytes) EvictOldest();
  Report();
  return true;
}

void StateCheckpoints::EvictOldest() {
  const auto oldest = std::min_element(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
    return a.second.expires < b.second.expires;
  });
  BATON_CHECK(oldest != entries_.end());
  metrics_->evicted.Increment();
  Remove(oldest);
}

absl::Status StateCheckpoints::Keep(IncomingCheckpoint& incoming) {
  absl::MutexLock lock(&mutex_);
  if (incoming.dropped_) return NoCheckpoint();
  const auto older = entries_.find(incoming.key_.id);
  if (older != entries_.end()) Remove(older);
  incoming.reader_.reset();
  Entry entry{incoming.key_.identity, *std::move(incoming.state_), 0, absl::Now() + options_.ttl};
  incoming.state_.reset();
  entry.bytes = entry.state.bytes();
  bytes_ += entry.bytes;
  news_ |= entries_.empty();
  entries_.emplace(incoming.key_.id, std::move(entry));
  metrics_->received.Increment();
  Report();
  return absl::OkStatus();
}

void StateCheckpoints::Forget(const IncomingCheckpoint& incoming) {
  absl::MutexLock lock(&mutex_);
  incoming_.erase(incoming.key_.id);
  incoming_bytes_ -= incoming.bytes_;
  Report();
}

absl::StatusOr<SequenceState> StateCheckpoints::Take(const SessionKey& key) {
  absl::MutexLock lock(&mutex_);
  const auto found = entries_.find(key.id);
  if (found == entries_.end() || found->second.identity != key.identity) return NoCheckpoint();
  metrics_->resumed.Increment();
  Entry taken = Remove(found);
  Report();
  return std::move(taken.state);
}

void StateCheckpoints::Drop(const SessionKey& key) {
  absl::MutexLock lock(&mutex_);
  const auto incoming = incoming_.find(key.id);
  if (incoming != incoming_.end() && incoming->second->key_.identity == key.identity) incoming->second->dropped_ = true;
  const auto found = entries_.find(key.id);
  if (found == entries_.end() || found->second.identity != key.identity) return;
  metrics_->dropped.Increment();
  Remove(found);
  Report();
}

bool StateCheckpoints::MakeRoom(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  const bool some = !entries_.empty();
  const int64_t before = bytes_;
  while (!entries_.empty() && before - bytes_ < bytes) EvictOldest();
  Report();
  return some;
}

StateCheckpoints::Entry StateCheckpoints::Remove(Entries::iterator entry) {
  bytes_ -= entry->second.bytes;
  Entry removed = std::move(entry->second);
  entries_.erase(entry);
  return removed;
}

void StateCheckpoints::Report() {
  metrics_->held.Set(static_cast<double>(entries_.size()));
  metrics_->held_bytes.Set(static_cast<double>(bytes_));
  on_change_(static_cast<int64_t>(entries_.size()), bytes_);
}

void StateCheckpoints::Loop() {
  absl::MutexLock lock(&mutex_);
  while (!stopping_) {
    absl::Time next = absl::InfiniteFuture();
    for (const auto& [id, entry] : entries_) next = std::min(next, entry.expires);
    mutex_.AwaitWithDeadline(absl::Condition(this, &StateCheckpoints::HasNews), next);
    news_ = false;
    const absl::Time now = absl::Now();
    for (auto at = entries_.begin(); at != entries_.end();) {
      const auto entry = at++;
      if (entry->second.expires > now) continue;
      metrics_->expired.Increment();
      Remove(entry);
    }
    Report();
  }
}

}  // namespace baton
