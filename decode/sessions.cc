#include "decode/sessions.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/state/state_codec.h"
#include "common/state/state_frames.h"
#include "decode/session_directory.h"

namespace baton {
namespace {

// How often expired sessions are looked for.
constexpr absl::Duration kSweepInterval = absl::Seconds(5);

absl::Status NoSession() {
  return absl::NotFoundError(
      "there is no such session here: it has expired, was dropped for want of room, or never was");
}

int64_t BytesOf(const StateSnapshot& snapshot) {
  int64_t bytes = 0;
  for (const StateSnapshot::Layer& layer : snapshot.layers) {
    for (const PageRef& page : layer.pages) bytes += page.bytes();
    if (layer.recurrent) bytes += layer.recurrent.bytes();
  }
  return bytes;
}

class MemoryFrames final : public SessionFrames {
 public:
  MemoryFrames(SequenceState state, const Fingerprint& fingerprint, std::function<void()> on_freed)
      : on_freed_(std::move(on_freed)), state_(std::move(state)) {
    frames_.emplace(*state_, fingerprint);
  }
  ~MemoryFrames() override {
    frames_.reset();
    state_.reset();
    on_freed_();
  }

  absl::Status Next(std::string* frames) override {
    frames_->Next(kStateFrameTargetBytes, frames);
    return absl::OkStatus();
  }

 private:
  const std::function<void()> on_freed_;
  absl::optional<SequenceState> state_;
  absl::optional<StateFrames> frames_;
};

class FileFrames final : public SessionFrames {
 public:
  explicit FileFrames(SessionFile file) : file_(std::move(file)) {}
  absl::Status Next(std::string* frames) override { return file_.ReadFrames(kStateFrameTargetBytes, frames); }

 private:
  SessionFile file_;
};

}  // namespace

std::unique_ptr<SessionFrames> FramesOf(SequenceState state, const Fingerprint& fingerprint,
                                        std::function<void()> on_freed) {
  return std::make_unique<MemoryFrames>(std::move(state), fingerprint, std::move(on_freed));
}

Sessions::Sessions(const SessionOptions& options, const Fingerprint& fingerprint, MemoryBudget* budget,
                   SessionMetrics* metrics, std::function<void(int64_t count, int64_t bytes)> on_change)
    : options_(options),
      fingerprint_(fingerprint),
      budget_(budget),
      metrics_(metrics),
      on_change_(std::move(on_change)) {
  if (enabled()) thread_ = std::thread([this] { Loop(); });
}

Sessions::~Sessions() {
  {
    absl::MutexLock lock(&mutex_);
    stopping_ = true;
  }
  if (thread_.joinable()) thread_.join();
}

absl::optional<absl::Time> Sessions::Keep(const SessionKey& key, std::vector<int32_t> tokens, SequenceState state) {
  if (!enabled()) return absl::nullopt;
  absl::StatusOr<StateSnapshot> snapshot = state.Snapshot();
  if (absl::IsResourceExhausted(snapshot.status()) && MakeRoom(state.bytes())) snapshot = state.Snapshot();
  if (!snapshot.ok()) {
    metrics_->not_kept.Increment();
    return absl::nullopt;
  }
  Entry entry;
  entry.record.id = key.id;
  entry.record.identity = key.identity;
  entry.record.tokens = std::move(tokens);
  entry.record.position = snapshot->position;
  entry.record.expires = absl::FromUnixMillis(absl::ToUnixMillis(absl::Now() + options_.ttl));
  entry.snapshot = *std::move(snapshot);
  entry.bytes = BytesOf(entry.snapshot);
  entry.unwritten = !options_.directory.empty();

  absl::MutexLock lock(&mutex_);
  entry.last_used = ++uses_;
  const absl::Time expires = entry.record.expires;
  const auto [at, added] = entries_.emplace(key.id, std::move(entry));
  // Ids are made of 128 random bits.
  if (!added) return absl::nullopt;
  bytes_ += at->second.bytes;
  if (at->second.unwritten) ++unwritten_;
  metrics_->kept.Increment();
  Trim();
  Report();
  return entries_.count(key.id) > 0 ? absl::optional<absl::Time>(expires) : absl::nullopt;
}

Sessions::Entry* Sessions::Find(const SessionKey& key) {
  const auto found = entries_.find(key.id);
  if (found == entries_.end() || found->second.record.identity != key.identity) return nullptr;
  if (found->second.record.expires <= absl::Now()) return nullptr;
  found->second.last_used = ++uses_;
  return &found->second;
}

absl::StatusOr<SessionFile> Sessions::OpenFile(const SessionKey& key) const {
  if (options_.directory.empty() || key.id.size() != kSessionIdBytes) return NoSession();
  absl::StatusOr<SessionFile> file = SessionFile::Open(options_.directory, key.id, fingerprint_);
  if (!file.ok()) {
    if (!absl::IsNotFound(file.status())) Log(Severity::kWarning, "session_file_bad").With("error", file.status());
    return NoSession();
  }
  if (file->record().identity != key.identity || file->record().expires <= absl::Now()) return NoSession();
  return file;
}

absl::StatusOr<SessionInfo> Sessions::Open(const SessionKey& key) {
  if (!enabled()) return NoSession();
  {
    absl::MutexLock lock(&mutex_);
    if (const Entry* entry = Find(key)) {
      metrics_->opened.Increment();
      return SessionInfo{entry->record.tokens, entry->record.position, entry->record.expires, /*in_memory=*/true};
    }
  }
  const absl::StatusOr<SessionFile> file = OpenFile(key);
  (file.ok() ? metrics_->opened : metrics_->not_found).Increment();
  if (!file.ok()) return file.status();
  return SessionInfo{file->record().tokens, file->record().position, file->record().expires};
}

absl::StatusOr<KeptSession> Sessions::Resume(const SessionKey& key) {
  if (!enabled()) return NoSession();
  absl::MutexLock lock(&mutex_);
  const Entry* const entry = Find(key);
  if (entry == nullptr) return NoSession();
  metrics_->read_from_memory.Increment();
  return KeptSession{entry->record.tokens, entry->snapshot};
}

absl::StatusOr<std::unique_ptr<SessionFrames>> Sessions::Read(const SessionKey& key) {
  if (!enabled()) return NoSession();
  StateSnapshot snapshot;
  {
    absl::MutexLock lock(&mutex_);
    if (const Entry* entry = Find(key)) snapshot = entry->snapshot;
  }
  if (snapshot.layout != nullptr) {
    BATON_ASSIGN_OR_RETURN(SequenceState state, Materialize(snapshot));
    metrics_->read_from_memory.Increment();
    return FramesOf(std::move(state), fingerprint_);
  }
  BATON_ASSIGN_OR_RETURN(SessionFile file, OpenFile(key));
  metrics_->read_from_directory.Increment();
  return std::make_unique<FileFrames>(std::move(file));
}

bool Sessions::MakeRoom(int64_t bytes) {
  absl::MutexLock lock(&mutex_);
  const bool dropped = DropOldest(bytes);
  Report();
  return dropped;
}

void Sessions::Drop(Entries::iterator entry) {
  bytes_ -= entry->second.bytes;
  if (entry->second.unwritten) --unwritten_;
  entries_.erase(entry);
}

bool Sessions::DropOldest(int64_t bytes) {
  bool dropped = false;
  for (int64_t freed = 0; freed < bytes && !entries_.empty();) {
    const auto oldest = std::min_element(entries_.begin(), entries_.end(), [](const auto& a, const auto& b) {
      return std::make_pair(a.second.unwritten, a.second.last_used) <
             std::make_pair(b.second.unwritten, b.second.last_used);
    });
    freed += oldest->second.bytes;
    if (!oldest->second.in_directory) metrics_->evicted.Increment();
    Drop(oldest);
    dropped = true;
  }
  return dropped;
}

void Sessions::Trim() {
  while (bytes_ > options_.memory_bytes) {
    // What is on its way to the directory may be a little too much; MakeRoom takes it all the same.
    const bool some_written =
        std::any_of(entries_.begin(), entries_.end(), [](const auto& entry) { return !entry.second.unwritten; });
    if (!some_written) return;
    DropOldest(1);
  }
}

void Sessions::Report() {
  metrics_->memory_sessions.Set(static_cast<double>(entries_.size()));
  metrics_->memory_bytes.Set(static_cast<double>(bytes_));
  on_change_(static_cast<int64_t>(entries_.size()), bytes_);
}

bool Sessions::HasWork() const { return stopping_ || unwritten_ > 0; }

void Sessions::Flush() {
  const auto written = [this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return unwritten_ == 0 && !writing_; };
  absl::MutexLock lock(&mutex_);
  mutex_.Await(absl::Condition(&written));
}

void Sessions::Loop() {
  const absl::Duration interval = std::min(kSweepInterval, options_.ttl);
  while (true) {
    SessionRecord record;
    StateSnapshot snapshot;
    {
      absl::MutexLock lock(&mutex_);
      mutex_.AwaitWithTimeout(absl::Condition(this, &Sessions::HasWork), interval);
      DropExpired(absl::Now());
      Report();
      if (stopping_ && unwritten_ == 0) return;
      if (unwritten_ > 0) {
        // The one kept first.
        auto next = entries_.end();
        for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
          if (!entry->second.unwritten) continue;
          if (next == entries_.end() || entry->second.record.expires < next->second.record.expires) next = entry;
        }
        record = next->second.record;
        snapshot = next->second.snapshot;
        writing_ = true;
      }
    }
    if (!options_.directory.empty()) {
      const int64_t room = snapshot.layout != nullptr ? BytesOf(snapshot) : 0;
      const DirectoryUse use = TidySessionDirectory(options_.directory, options_.directory_bytes, room, absl::Now());
      metrics_->evicted.Increment(static_cast<double>(use.evicted));
      metrics_->directory_sessions.Set(static_cast<double>(use.files + (room > 0 ? 1 : 0)));
      metrics_->directory_bytes.Set(static_cast<double>(use.bytes + room));
    }
    if (snapshot.layout == nullptr) continue;
    const absl::Status status = Write(record, snapshot);
    (status.ok() ? metrics_->written : metrics_->write_failed).Increment();
    if (!status.ok()) Log(Severity::kWarning, "session_write_failed").With("error", status);
    snapshot = StateSnapshot();
    absl::MutexLock lock(&mutex_);
    writing_ = false;
    const auto entry = entries_.find(record.id);
    if (entry != entries_.end() && entry->second.unwritten) {
      entry->second.unwritten = false;
      entry->second.in_directory = status.ok();
      --unwritten_;
    }
    Trim();
    Report();
  }
}

void Sessions::DropExpired(absl::Time now) {
  for (auto next = entries_.begin(); next != entries_.end();) {
    const auto entry = next++;
    if (entry->second.record.expires > now) continue;
    metrics_->expired.Increment();
    Drop(entry);
  }
}

absl::StatusOr<SequenceState> Sessions::Materialize(const StateSnapshot& snapshot) {
  return SequenceState::FromSnapshot(snapshot, *budget_, snapshot.position);
}

absl::Status Sessions::Write(const SessionRecord& record, const StateSnapshot& snapshot) {
  if (BytesOf(snapshot) > options_.directory_bytes) {
    return absl::ResourceExhaustedError("the state is larger than --session-bytes");
  }
  BATON_ASSIGN_OR_RETURN(const SequenceState state, Materialize(snapshot));
  return WriteSessionFile(options_.directory, record, fingerprint_, state);
}

}  // namespace baton
