#include "gateway/router.h"

#include <algorithm>
#include <limits>

#include "common/observe/log.h"

namespace baton {
namespace {

// A worker's pace is that of its last second; of its first, some was idle.
constexpr double kNewPaceWeight = 0.2;

int64_t Saturated(absl::int128 sum) {
  return static_cast<int64_t>(std::min(sum, absl::int128(std::numeric_limits<int64_t>::max())));
}

}  // namespace

Placement& Placement::operator=(Placement&& other) noexcept {
  if (this == &other) return *this;
  Release();
  router_ = std::exchange(other.router_, nullptr);
  stage_ = other.stage_;
  id_ = other.id_;
  connection_ = std::move(other.connection_);
  return *this;
}

void Placement::Confirm() {
  if (router_ != nullptr) router_->Confirm(*this, absl::nullopt);
}
void Placement::Confirm(int64_t amount) {
  if (router_ != nullptr) router_->Confirm(*this, amount);
}
void Placement::ReportRefused() {
  if (router_ != nullptr) router_->Mark(*this, &Router::Row::refused);
}
void Placement::ReportFailed() {
  if (router_ != nullptr) router_->Failed(stage_, connection_->endpoint);
}
void Placement::ReportLate() {
  if (router_ != nullptr) router_->Mark(*this, &Router::Row::failed);
}
void Placement::Release() {
  if (router_ == nullptr) return;
  std::exchange(router_, nullptr)->Release(*this);
  connection_.reset();
}

int64_t Router::Row::InUse() const { return Saturated(unreported.amount + reported); }

int64_t Router::Row::Running() const { return running + unreported.samples; }

int64_t Router::Row::PromptTokens() const {
  return Saturated(unreported.prompt_tokens + std::max<int64_t>(0, snapshot.load.queued_tokens()));
}

Placement Router::MakePlacement(Row* row, Claim claim) {
  Placement placement;
  placement.router_ = this;
  placement.stage_ = row->snapshot.stage;
  placement.id_ = ++next_id_;
  placement.connection_ = row->snapshot.connection;
  row->last_used = placement.id_;
  row->claims[placement.id_] = claim;
  row->unreported.Add(claim);
  if (row->breaker.Begin()) row->probe = placement.id_;
  return placement;
}

Router::Row* Router::Find(const Placement& placement) {
  const auto row = rows_.find(Key(placement.stage_, placement.connection_->endpoint));
  if (row == rows_.end() || row->second.claims.count(placement.id_) == 0) return nullptr;
  return &row->second;
}

void Router::Confirm(const Placement& placement, absl::optional<int64_t> amount) {
  std::lock_guard<std::mutex> lock(mutex_);
  Row* const row = Find(placement);
  if (row == nullptr) return;
  Claim& claim = row->claims[placement.id_];
  row->unreported.Remove(claim);
  if (amount.has_value()) claim.amount = std::max<int64_t>(0, *amount);
  claim.confirmed = true;
  row->unreported.Add(claim);
}

void Router::Mark(const Placement& placement, bool Row::*flag) {
  std::lock_guard<std::mutex> lock(mutex_);
  Row* const row = Find(placement);
  if (row != nullptr) row->*flag = true;
}

void Router::Worked(Stage stage, const std::string& endpoint) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto row = rows_.find(Key(stage, endpoint));
  if (row == rows_.end()) return;
  row->second.breaker.Worked();
  row->second.probe = 0;
}

bool Router::Failed(Stage stage, const std::string& endpoint) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto row = rows_.find(Key(stage, endpoint));
  if (row == rows_.end()) return false;
  row->second.failed = true;
  row->second.probe = 0;
  const bool opened = row->second.breaker.Failed(Clock::now());
  if (opened) Log(Severity::kWarning, "worker_paused").With("endpoint", endpoint).With("worker_role", StageName(stage));
  return opened;
}

void Router::NotePromptTime(const std::string& endpoint, int64_t tokens, Clock::duration time) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto row = rows_.find(Key(Stage::kPrefill, endpoint));
  if (row != rows_.end()) row->second.prompt_pace.Computed(tokens, time, Clock::now());
}

absl::optional<Clock::duration> Router::PromptTime(const std::string& endpoint, int64_t tokens) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto row = rows_.find(Key(Stage::kPrefill, endpoint));
  if (row == rows_.end() || row->second.snapshot.info == nullptr) return absl::nullopt;
  if (row->second.prompt_pace.known()) return row->second.prompt_pace.TimeFor(tokens);
  PromptPace fastest;
  for (const auto& [key, other] : rows_) {
    const bool alike = key.first == Stage::kPrefill && other.snapshot.info != nullptr &&
                       other.snapshot.info->fingerprint() == row->second.snapshot.info->fingerprint();
    if (alike) fastest = PromptPace::Faster(fastest, other.prompt_pace);
  }
  return fastest.TimeFor(tokens);
}

bool Router::Serves(Stage stage, const std::string& endpoint) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto row = rows_.find(Key(stage, endpoint));
  return row != rows_.end() && row->second.snapshot.state == WorkerState::kServing;
}

WorkerPulse Router::Pulse(Stage stage, const std::string& endpoint) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto row = rows_.find(Key(stage, endpoint));
  if (row != rows_.end()) return row->second.pulse;
  return {Clock::time_point::max(), Clock::time_point::max()};
}

WorkerPause Router::PauseOf(Stage stage, const std::string& endpoint) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto row = rows_.find(Key(stage, endpoint));
  if (row == rows_.end()) return {};
  return {row->second.breaker.open(), row->second.breaker.PauseLeft(Clock::now())};
}

void Router::Release(const Placement& placement) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Row* const row = Find(placement);
    if (row == nullptr) return;
    const Claim& claim = row->claims[placement.id_];
    // State memory is given back at once. Queued tokens shrink as they are computed, which only the worker knows.
    if (claim.reported && placement.stage_ == Stage::kDecode) {
      row->reported = std::max<int64_t>(0, row->reported - claim.amount);
      row->running = std::max<int64_t>(0, row->running - claim.samples);
    }
    row->unreported.Remove(claim);
    row->claims.erase(placement.id_);
    if (row->probe == placement.id_) {
      row->breaker.Abandoned();
      row->probe = 0;
    }
  }
  if (capacity_listener_) capacity_listener_();
}

void Router::OnWorker(const WorkerSnapshot& snapshot) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    Row& row = rows_[Key(snapshot.stage, snapshot.endpoint)];
    const bool same_process = row.snapshot.info != nullptr && snapshot.info != nullptr &&
                              row.snapshot.info->boot_id() == snapshot.info->boot_id();
    const bool new_report = snapshot.load_reports != row.snapshot.load_reports;
    const bool more_done = snapshot.load.tokens_done() != row.snapshot.load.tokens_done();
    row.snapshot = snapshot;
    if (!same_process) {
      row.claims.clear();
      row.unreported = {};
      row.pace = 0;
      row.prompt_pace = {};
      row.breaker = CircuitBreaker(breaker_options_);
      row.probe = 0;
    }
    if (new_report) {
      row.pulse.heard = Clock::now();
      if (more_done) row.pulse.progressed = row.pulse.heard;
      row.reported =
          snapshot.stage == Stage::kDecode ? snapshot.load.state_bytes_used() : snapshot.load.queued_tokens();
      row.reported = std::max<int64_t>(0, row.reported);
      row.running = std::max<int64_t>(0, snapshot.load.running());
      const double pace = snapshot.load.tokens_per_second();
      if (row.reported > 0 && pace > 0) row.pace = row.pace == 0 ? pace : row.pace + kNewPaceWeight * (pace - row.pace);
      row.refused = false;
      row.failed = false;
      row.unreported = {};
      for (auto& [id, claim] : row.claims) {
        claim.reported = claim.confirmed;
        row.unreported.Add(claim);
      }
    }
  }
  if (capacity_listener_) capacity_listener_();
}

void Router::OnWorkerRemoved(const std::string& endpoint, Stage stage) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    rows_.erase(Key(stage, endpoint));
  }
  if (capacity_listener_) capacity_listener_();
}

}  // namespace baton
