// Whom the router chooses, and why not others. Its claims and what it hears of workers: router.cc.
#include <algorithm>
#include <limits>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/time/time.h"
#include "common/base/bytes.h"
#include "common/base/host_port.h"
#include "common/base/status_macros.h"
#include "common/rpc/local_prefill.h"
#include "common/rpc/status_mapping.h"
#include "common/state/prefix_chain.h"
#include "gateway/router.h"
#include "gateway/saturating.h"

namespace baton {
namespace {

// A worker says at least once a second how full it is.
constexpr absl::Duration kRetryAfter = absl::Seconds(1);
// However slow a worker seems, it is not left idle for want of news.
constexpr double kSmallestBacklogTokens = 1024;
// Workers that a request's decode worker is told of to keep copies of its states.
constexpr size_t kStandbys = 2;

}  // namespace

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
  return PlaceAmong(prefill, decode, demand, avoid);
}

absl::StatusOr<Route> Router::PlaceAmong(const std::vector<Row*>& prefill, const std::vector<Row*>& decode,
                                         const Demand& demand, const Avoid& avoid) {
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
  if (demand.state_tokens > 0) {
    BATON_ASSIGN_OR_RETURN(Row* const row, ChooseDecode(decode, demand, avoid));
    route.decode = PlaceDecode(row, demand, /*prompt_tokens=*/0);
    route.standbys = ChooseStandbys(decode, row, avoid);
  }
  route.tokens_before = std::max<int64_t>(0, (*prefill_row)->InUse());
  route.tokens_to_compute = TokensToCompute(**prefill_row, demand);
  Claim claim;
  claim.amount = route.tokens_to_compute;
  route.prefill = MakePlacement(*prefill_row, claim);
  return route;
}

absl::optional<Route> Router::PlaceBeside(const Demand& demand, const Avoid& avoid, const Beside& running) {
  std::lock_guard<std::mutex> lock(mutex_);
  // `other`: only others.
  const auto suitable = [&](Stage stage, const std::string& used, bool other) {
    std::vector<Row*> rows;
    for (Row* row : Serving(stage, demand.fingerprint)) {
      if (other && row->snapshot.endpoint == used) continue;
      if (row->refused || row->breaker.open() || row->Reluctance(avoid) > 0) continue;
      if (stage == Stage::kPrefill && row->InUse() > TokensToCompute(*row, demand)) continue;
      rows.push_back(row);
    }
    return rows;
  };
  for (const bool others_only : {true, false}) {
    const std::vector<Row*> prefill = suitable(Stage::kPrefill, running.prefill, others_only || running.other_prefill);
    std::vector<Row*> decode;
    if (demand.state_tokens > 0) {
      decode = suitable(Stage::kDecode, running.decode, others_only || running.other_decode);
    }
    absl::StatusOr<Route> route = PlaceAmong(prefill, decode, demand, avoid);
    if (route.ok()) return *std::move(route);
  }
  return absl::nullopt;
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

}  // namespace baton
