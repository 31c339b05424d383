#include "gateway/router.h"

#include <algorithm>
#include <limits>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "common/base/bytes.h"
#include "common/base/host_port.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/local_prefill.h"
#include "common/rpc/status_mapping.h"
#include "common/state/prefix_chain.h"

namespace baton {
namespace {

// A worker says at least once a second how full it is.
constexpr absl::Duration kRetryAfter = absl::Seconds(1);
// A worker's pace is that of its last second; of its first, some was idle.
constexpr double kNewPaceWeight = 0.2;
// However slow a worker seems, it is not left idle for want of news.
constexpr double kSmallestBacklogTokens = 1024;
// Workers that a request's decode worker is told of to keep copies of its states.
constexpr size_t kStandbys = 2;

int64_t SaturatingMultiply(int64_t a, int64_t b) {
  int64_t product;
  return __builtin_mul_overflow(a, b, &product) ? std::numeric_limits<int64_t>::max() : product;
}

int64_t Saturated(absl::int128 sum) {
  return static_cast<int64_t>(std::min(sum, absl::int128(std::numeric_limits<int64_t>::max())));
}

int64_t SaturatingAdd(int64_t a, int64_t b) {
  int64_t sum;
  return __builtin_add_overflow(a, b, &sum) ? std::numeric_limits<int64_t>::max() : sum;
}

}  // namespace

int64_t StateBytesFor(const worker::v1::StateBytes& bytes, int64_t tokens) {
  int64_t total = bytes.fixed();
  for (const auto& growth : bytes.growth()) {
    const int64_t kept = growth.limit() > 0 ? std::min(tokens, growth.limit()) : tokens;
    total = SaturatingAdd(total, SaturatingMultiply(growth.per_token(), kept));
  }
  return total;
}

Demand ReservedFirst(const worker::v1::StateBytes& bytes, const Demand& demand) {
  Demand first = demand;
  if (bytes.reserve_output() > 0) {
    first.state_tokens = std::min(demand.state_tokens, SaturatingAdd(demand.prompt_tokens, bytes.reserve_output()));
  }
  return first;
}

int64_t StateBytesFor(const worker::v1::StateBytes& bytes, const Demand& demand) {
  const int64_t one = StateBytesFor(bytes, demand.state_tokens);
  if (demand.samples == 1) return one;
  // Each further sample owns what lies behind the prompt's whole pages. What the samples share of a window's pages, and
  // the page that the prompt ends in, are there once more.
  const int64_t page = std::max<int64_t>(1, bytes.page_tokens());
  const int64_t own_tokens = SaturatingMultiply(demand.state_tokens / page + 1 - demand.prompt_tokens / page, page);
  int64_t own = bytes.fixed();
  int64_t shared = 0;
  for (const auto& growth : bytes.growth()) {
    const int64_t kept = growth.limit() > 0 ? std::min(own_tokens, growth.limit()) : own_tokens;
    own = SaturatingAdd(own, SaturatingMultiply(growth.per_token(), kept));
    shared = SaturatingAdd(shared, SaturatingMultiply(growth.per_token(), growth.limit() > 0 ? kept : page));
  }
  return SaturatingAdd(SaturatingAdd(one, shared), SaturatingMultiply(demand.samples - 1, own));
}

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

std::vector<Router::Row*> Router::Serving(Stage stage, const std::string& fingerprint) {
  std::vector<Row*> serving;
  const Clock::time_point now = Clock::now();
  for (auto& [key, row] : rows_) {
    if (key.first != stage || row.snapshot.state != WorkerState::kServing || row.snapshot.info == nullptr) continue;
    if (!row.breaker.Allows(now)) continue;
    if (row.snapshot.info->fingerprint() == fingerprint) serving.push_back(&row);
  }
  // A request would wait in vain at one that hangs or is cut off. Where nobody is heard, the fault may be on this side.
  const auto heard = [&](const Row* row) { return row->pulse.heard >= now - reports_missing_; };
  if (std::any_of(serving.begin(), serving.end(), heard)) {
    serving.erase(std::partition(serving.begin(), serving.end(), heard), serving.end());
  }
  return serving;
}

absl::Status Router::NoWorkers(const Demand& demand, bool prefill_missing, bool decode_missing) const {
  std::vector<std::string> missing;
  if (prefill_missing) missing.push_back("prefill");
  if (decode_missing) missing.push_back("decode");
  // What there is instead, so that an operator sees why.
  std::map<std::string, int> others;
  for (const auto& [key, row] : rows_) {
    const bool wanted = key.first == Stage::kPrefill ? prefill_missing : decode_missing;
    if (!wanted) continue;
    const bool other_model = row.snapshot.info != nullptr && row.snapshot.info->model_name() != demand.model;
    if (other_model) continue;
    const char* why = WorkerStateName(row.snapshot.state);
    if (row.snapshot.state == WorkerState::kServing) {
      why = row.breaker.open() ? "paused after failures" : "of another fingerprint";
    }
    ++others[absl::StrCat(StageName(key.first), " ", why)];
  }
  std::string message =
      absl::StrCat("model ", demand.model, " has no serving ", absl::StrJoin(missing, " and no "), " worker just now");
  if (!others.empty()) {
    std::vector<std::string> parts;
    for (const auto& [what, count] : others) parts.push_back(absl::StrCat(count, " ", what));
    absl::StrAppend(&message, " (", absl::StrJoin(parts, ", "), ")");
  }
  return WithRetryAfter(absl::UnavailableError(message), kRetryAfter, "NO_WORKERS");
}

absl::StatusOr<Router::Row*> Router::ChooseDecode(const std::vector<Row*>& rows, const Demand& demand,
                                                  const Avoid& avoid) const {
  Row* best = nullptr;
  auto best_rank = std::make_tuple(0, int64_t{0}, uint64_t{0});
  bool could_ever_fit = false;
  int64_t smallest_need = std::numeric_limits<int64_t>::max();
  int64_t largest_memory = 0;
  for (Row* row : rows) {
    const int64_t need = StateBytesFor(row->snapshot.info->state_bytes(), demand);
    const int64_t memory = row->snapshot.load.state_bytes_total();
    smallest_need = std::min(smallest_need, need);
    largest_memory = std::max(largest_memory, memory);
    if (need > memory) continue;
    could_ever_fit = true;
    const worker::v1::StateBytes& bytes = row->snapshot.info->state_bytes();
    if (row->refused || StateBytesFor(bytes, ReservedFirst(bytes, demand)) > row->Free()) continue;
    const auto rank = std::make_tuple(row->Reluctance(avoid), -row->Free(), row->last_used);
    if (best != nullptr && rank >= best_rank) continue;
    best = row;
    best_rank = rank;
  }
  if (best != nullptr) return best;
  if (!could_ever_fit) {
    return WithReason(
        BadRequestError({{"stopping.max_new_tokens",
                          absl::StrCat("prompt and max_new_tokens need ", FormatBytes(smallest_need),
                                       " of state, more than the ", FormatBytes(largest_memory),
                                       " of the largest decode worker: shorten the prompt or lower max_new_tokens")}}),
        "PROMPT_TOO_LONG");
  }
  return WithRetryAfter(
      absl::ResourceExhaustedError(absl::StrCat("every decode worker of model ", demand.model, " is full")),
      kRetryAfter, "DECODE_MEMORY_FULL");
}

int64_t Router::TokensToCompute(const Row& row, const Demand& demand) {
  // Whoever computes it, a session's state is read, and not looked for among what is cached.
  if (demand.session_tokens > 0) return std::max<int64_t>(1, demand.prompt_tokens - demand.session_tokens);
  if (demand.prefixes == nullptr || row.snapshot.prefixes == nullptr) return demand.prompt_tokens;
  for (size_t blocks = demand.prefixes->size(); blocks > 0; --blocks) {
    if (!row.snapshot.prefixes->Contains((*demand.prefixes)[blocks - 1])) continue;
    return std::max<int64_t>(1, demand.prompt_tokens - static_cast<int64_t>(blocks) * kPrefixBlockTokens);
  }
  return demand.prompt_tokens;
}

bool Router::IsBackedUp(const Row& row) const {
  if (prefill_backlog_ <= Clock::duration::zero() || row.pace <= 0) return false;
  const double tokens = row.pace * std::chrono::duration<double>(prefill_backlog_).count();
  return static_cast<double>(row.InUse()) > std::max(tokens, kSmallestBacklogTokens);
}

absl::StatusOr<Router::Row*> Router::ChoosePrefill(const std::vector<Row*>& rows, const Demand& demand,
                                                   const Avoid& avoid) const {
  Row* best = nullptr;
  auto best_rank = std::make_tuple(0, int64_t{0}, size_t{0}, uint64_t{0});
  int least_reluctance = std::numeric_limits<int>::max();
  for (Row* row : rows) {
    if (row->refused) continue;
    const int reluctance = row->Reluctance(avoid);
    least_reluctance = std::min(least_reluctance, reluctance);
    if (IsBackedUp(*row)) continue;
    const int64_t work = SaturatingAdd(row->InUse(), TokensToCompute(*row, demand));
    const auto rank = std::make_tuple(reluctance, work, row->claims.size(), row->last_used);
    if (best != nullptr && rank >= best_rank) continue;
    best = row;
    best_rank = rank;
  }
  // A good worker's backlog is computed in seconds: rather wait for it than go back to one that has just failed.
  if (best != nullptr && std::get<0>(best_rank) == least_reluctance) return best;
  return WithRetryAfter(absl::ResourceExhaustedError("every prefill worker has a full queue"), kRetryAfter,
                        "PREFILL_MEMORY_FULL");
}

bool Router::TakesPrompt(const Row& row, int64_t tokens, const Avoid& avoid, int64_t rows_elsewhere) const {
  const int64_t chunk = row.snapshot.info->local_prefill_chunk();
  if (chunk <= 0 || row.Reluctance(avoid) > 0) return false;
  // Prompts that wait count as running ones in the worker's report, which matters little: they are few.
  return LocalRows(row.Running(), row.PromptTokens(), tokens, chunk) <= rows_elsewhere;
}

Router::Row* Router::ChooseLocal(const std::vector<Row*>& rows, const Demand& demand, const Avoid& avoid,
                                 int64_t rows_elsewhere, PromptPlace* place) const {
  if (!demand.may_be_local || local_prefill_tokens_ == 0) return nullptr;
  for (Row* row : rows) {
    if (demand.session_worker == nullptr || row->snapshot.connection != demand.session_worker) continue;
    const int64_t tokens = demand.prompt_tokens - demand.session_tokens;
    if (tokens > local_prefill_tokens_ && !demand.resumes) continue;
    if (!TakesPrompt(*row, tokens, avoid, rows_elsewhere)) continue;
    const absl::StatusOr<Row*> chosen = ChooseDecode({row}, demand, avoid);
    if (!chosen.ok()) continue;
    *place = PromptPlace::kDecodeWorkerFromSession;
    return *chosen;
  }
  if (demand.prompt_tokens > local_prefill_tokens_) return nullptr;
  std::vector<Row*> willing;
  for (Row* row : rows) {
    if (TakesPrompt(*row, demand.prompt_tokens, avoid, rows_elsewhere)) willing.push_back(row);
  }
  if (willing.empty()) return nullptr;
  const absl::StatusOr<Row*> chosen = ChooseDecode(willing, demand, avoid);
  if (!chosen.ok()) return nullptr;
  *place = PromptPlace::kDecodeWorker;
  return *chosen;
}

std::vector<Standby> Router::ChooseStandbys(const std::vector<Row*>& rows, const Row* chosen, const Avoid& avoid) {
  std::vector<Standby> standbys;
  if (chosen->snapshot.info->checkpoint_tokens() <= 0) return standbys;
  const auto endpoint_of = [](const Row& row) {
    const std::string& told = row.snapshot.info->endpoint();
    return told.empty() ? row.snapshot.endpoint : told;
  };
  const auto host_of = [&](const Row& row) {
    const absl::optional<HostPort> parts = SplitHostPort(endpoint_of(row));
    return parts.has_value() ? parts->host : std::string();
  };
  const std::string host = host_of(*chosen);
  std::vector<std::pair<std::tuple<int, bool, uint64_t>, Row*>> ranked;
  for (Row* row : rows) {
    if (row == chosen || row->snapshot.info->checkpoint_bytes() <= 0) continue;
    ranked.push_back({{row->Reluctance(avoid), host_of(*row) == host, row->last_standby}, row});
  }
  std::sort(ranked.begin(), ranked.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  for (const auto& [rank, row] : ranked) {
    if (standbys.size() == kStandbys) break;
    // The second one is only for when the first fails.
    if (standbys.empty()) row->last_standby = ++next_id_;
    standbys.push_back({endpoint_of(*row), row->snapshot.connection});
  }
  return standbys;
}

Placement Router::PlaceDecode(Row* row, const Demand& demand, int64_t prompt_tokens) {
  const worker::v1::StateBytes& bytes = row->snapshot.info->state_bytes();
  Claim claim;
  claim.amount = StateBytesFor(bytes, ReservedFirst(bytes, demand));
  claim.samples = demand.samples;
  claim.prompt_tokens = prompt_tokens;
  return MakePlacement(row, claim);
}

absl::StatusOr<Route> Router::Place(const Demand& demand, const Avoid& avoid) {
  std::lock_guard<std::mutex> lock(mutex_);
  const bool needs_decode = demand.state_tokens > 0;
  const std::vector<Row*> prefill = Serving(Stage::kPrefill, demand.fingerprint);
  const std::vector<Row*> decode = needs_decode ? Serving(Stage::kDecode, demand.fingerprint) : std::vector<Row*>();
  const bool decode_missing = needs_decode && decode.empty();
  if (prefill.empty() || decode_missing) return NoWorkers(demand, prefill.empty(), decode_missing);

  const absl::StatusOr<Row*> prefill_row = ChoosePrefill(prefill, demand, avoid);
  int64_t prefill_rows = std::numeric_limits<int64_t>::max();
  if (prefill_row.ok()) {
    prefill_rows = SaturatingAdd((*prefill_row)->InUse(), TokensToCompute(**prefill_row, demand) + kWeightPassRows);
    // A kept state travels there and back.
    if (demand.session_tokens > 0) prefill_rows = SaturatingAdd(prefill_rows, kWeightPassRows);
  }
  Route route;
  if (Row* const local = ChooseLocal(decode, demand, avoid, prefill_rows, &route.prompt_place)) {
    const bool from_session = route.prompt_place == PromptPlace::kDecodeWorkerFromSession;
    route.decode = PlaceDecode(local, demand, demand.prompt_tokens - (from_session ? demand.session_tokens : 0));
    route.standbys = ChooseStandbys(decode, local, avoid);
    return route;
  }
  if (!prefill_row.ok()) return prefill_row.status();
  if (needs_decode) {
    BATON_ASSIGN_OR_RETURN(Row* const row, ChooseDecode(decode, demand, avoid));
    route.decode = PlaceDecode(row, demand, /*prompt_tokens=*/0);
    route.standbys = ChooseStandbys(decode, row, avoid);
  }
  Claim claim;
  claim.amount = TokensToCompute(**prefill_row, demand);
  route.prefill = MakePlacement(*prefill_row, claim);
  return route;
}

std::vector<std::shared_ptr<WorkerConnection>> Router::DecodeWorkers(const std::string& fingerprint,
                                                                     const std::string& boot_id) {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<std::shared_ptr<WorkerConnection>> workers;
  for (const Row* row : Serving(Stage::kDecode, fingerprint)) {
    const bool first = row->snapshot.info->boot_id() == boot_id;
    workers.insert(first ? workers.begin() : workers.end(), row->snapshot.connection);
  }
  return workers;
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
