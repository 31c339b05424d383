#include "gateway/worker_registry.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <iterator>
#include <set>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/base/host_port.h"
#include "common/observe/log.h"
#include "gateway/srv_records.h"

namespace baton {

namespace {

constexpr absl::string_view kSrvPrefix = "srv:";
constexpr size_t kMaxNameBytes = 253;

absl::StatusOr<std::vector<std::string>> ResolveHost(const std::string& target) {
  const absl::optional<HostPort> parts = SplitHostPort(target);
  if (!parts.has_value()) return absl::InvalidArgumentError(absl::StrCat(target, " is not HOST:PORT"));
  const auto& [host, port] = *parts;
  addrinfo hints = {};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), port.c_str(), &hints, &found);
  if (error != 0) {
    return absl::UnavailableError(absl::StrCat("cannot resolve ", host, ": ", gai_strerror(error)));
  }
  std::set<std::string> ipv4;
  std::set<std::string> ipv6;
  for (const addrinfo* entry = found; entry != nullptr; entry = entry->ai_next) {
    char numeric[NI_MAXHOST];
    if (getnameinfo(entry->ai_addr, entry->ai_addrlen, numeric, sizeof(numeric), nullptr, 0, NI_NUMERICHOST) != 0) {
      continue;
    }
    if (entry->ai_family == AF_INET) ipv4.insert(absl::StrCat(numeric, ":", port));
    if (entry->ai_family == AF_INET6) ipv6.insert(absl::StrCat("[", numeric, "]:", port));
  }
  freeaddrinfo(found);
  const std::set<std::string>& chosen = ipv4.empty() ? ipv6 : ipv4;
  if (chosen.empty()) return absl::UnavailableError(absl::StrCat(host, " has no addresses"));
  return std::vector<std::string>(chosen.begin(), chosen.end());
}

// What the certificates of a target's workers are for: its host; of SRV records, the domain that offers the service.
std::string CertifiedHost(const std::string& target) {
  if (!absl::StartsWith(target, kSrvPrefix)) return target.substr(0, target.rfind(':'));
  absl::string_view name = absl::string_view(target).substr(kSrvPrefix.size());
  while (absl::StartsWith(name, "_") && name.find('.') != absl::string_view::npos) {
    name.remove_prefix(name.find('.') + 1);
  }
  return std::string(name);
}

}  // namespace

std::string TargetProblem(const std::string& target) {
  if (!absl::StartsWith(target, kSrvPrefix)) return HostPortProblem(target);
  const std::string name = target.substr(kSrvPrefix.size());
  const bool usable = !name.empty() && name.size() <= kMaxNameBytes &&
                      std::all_of(name.begin(), name.end(), [](char c) { return absl::ascii_isgraph(c) && c != ':'; });
  return usable ? std::string()
                : absl::StrCat("expected srv:NAME, such as srv:_grpc._tcp.decode.example, got \"", target, "\"");
}

absl::StatusOr<std::vector<std::string>> ResolveTarget(const std::string& target) {
  if (!absl::StartsWith(target, kSrvPrefix)) return ResolveHost(target);
  const absl::StatusOr<std::vector<SrvRecord>> records = LookUpSrv(target.substr(kSrvPrefix.size()));
  if (!records.ok()) return records.status();
  std::set<std::string> found;
  for (const SrvRecord& record : *records) {
    const absl::StatusOr<std::vector<std::string>> addresses = ResolveHost(absl::StrCat(record.host, ":", record.port));
    // A part would look as if the rest had been taken away.
    if (!addresses.ok()) return addresses.status();
    found.insert(addresses->begin(), addresses->end());
  }
  return std::vector<std::string>(found.begin(), found.end());
}

WorkerRegistry::WorkerRegistry(WorkerRegistryOptions options) : options_(std::move(options)) {}

WorkerRegistry::~WorkerRegistry() { Stop(); }

void WorkerRegistry::Start() {
  if (options_.directory != nullptr) options_.directory->Start([this] { Wake(); });
  thread_ = std::thread([this] { ResolveLoop(); });
}

void WorkerRegistry::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    stop_changed_.notify_all();
  }
  if (options_.directory != nullptr) options_.directory->Stop();
  if (thread_.joinable()) thread_.join();
  // All first: one link may be waiting for the tokenizer another one fetches.
  for (const auto& [key, link] : links_) link->BeginStop();
  links_.clear();
}

void WorkerRegistry::ResolveLoop() {
  while (true) {
    ResolveAll();
    const Clock::time_point resolved = Clock::now();
    std::unique_lock<std::mutex> lock(mutex_);
    stop_changed_.wait_until(lock, resolved + options_.resolve_interval, [this] { return stopping_ || woken_; });
    const Clock::time_point not_before =
        resolved + std::min(options_.shortest_resolve_interval, options_.resolve_interval);
    if (stop_changed_.wait_until(lock, not_before, [this] { return stopping_; })) return;
    woken_ = false;
  }
}

void WorkerRegistry::Wake() {
  std::lock_guard<std::mutex> lock(mutex_);
  woken_ = true;
  stop_changed_.notify_all();
}

void WorkerRegistry::SetUnresolved(const Key& key, const absl::Status& status) {
  std::lock_guard<std::mutex> lock(mutex_);
  const auto [entry, is_new] = unresolved_.emplace(key, std::string(status.message()));
  entry->second = std::string(status.message());
  if (is_new) Log(Severity::kWarning, "worker_name_unresolved").With("name", key.second).With("error", status);
}

bool WorkerRegistry::ListTarget(Stage stage, const std::string& target, Listed* listed) {
  const absl::StatusOr<std::vector<std::string>> addresses = options_.resolver(target);
  const Key key(stage, target);
  asked_.insert(key);
  if (!addresses.ok()) {
    SetUnresolved(key, addresses.status());
    return false;
  }
  const std::string host = CertifiedHost(target);
  for (const std::string& address : *addresses) listed->emplace(Key(stage, address), host);
  std::lock_guard<std::mutex> lock(mutex_);
  unresolved_.erase(key);
  return true;
}

bool WorkerRegistry::ListDirectory(Listed* listed) {
  const absl::StatusOr<std::vector<WorkerRecord>> workers = options_.directory->Workers();
  const Key name(Stage::kPrefill, options_.directory->name());
  asked_.insert(name);
  if (!workers.ok()) {
    SetUnresolved(name, workers.status());
    return false;
  }
  bool complete = true;
  for (const WorkerRecord& worker : *workers) {
    const Stage stage = worker.role == "prefill" ? Stage::kPrefill : Stage::kDecode;
    // One that cannot be resolved is not the others' business.
    complete = ListTarget(stage, worker.endpoint, listed) && complete;
  }
  std::lock_guard<std::mutex> lock(mutex_);
  unresolved_.erase(name);
  return complete;
}

void WorkerRegistry::ResolveAll() {
  asked_.clear();
  Listed listed;
  // Without an answer for every name of a stage, nothing of that stage can be called gone.
  std::set<Stage> incomplete;
  for (const std::string& target : options_.prefill) {
    if (!ListTarget(Stage::kPrefill, target, &listed)) incomplete.insert(Stage::kPrefill);
  }
  for (const std::string& target : options_.decode) {
    if (!ListTarget(Stage::kDecode, target, &listed)) incomplete.insert(Stage::kDecode);
  }
  if (options_.directory != nullptr && !ListDirectory(&listed)) incomplete = {Stage::kPrefill, Stage::kDecode};
  {
    // What a directory no longer lists need not resolve.
    std::lock_guard<std::mutex> lock(mutex_);
    for (auto entry = unresolved_.begin(); entry != unresolved_.end();) {
      entry = asked_.count(entry->first) > 0 ? std::next(entry) : unresolved_.erase(entry);
    }
  }

  for (const auto& [key, host] : listed) {
    if (links_.count(key) > 0) continue;
    WorkerLinkOptions link = options_.link;
    if (link.channel.server_name.empty()) link.channel.server_name = host;
    links_[key] = std::make_unique<WorkerLink>(
        key.second, key.first, &tokenizers_, [this](const WorkerSnapshot& snapshot) { OnLink(snapshot); }, link);
  }
  for (auto entry = links_.begin(); entry != links_.end();) {
    const Key key = entry->first;
    bool in_use = listed.count(key) > 0 || incomplete.count(key.first) > 0;
    if (!in_use) {
      std::lock_guard<std::mutex> lock(mutex_);
      const auto found = published_.find(key);
      in_use = found != published_.end() &&
               (found->second.state == WorkerState::kServing || found->second.state == WorkerState::kDraining);
    }
    if (in_use) {
      ++entry;
      continue;
    }
    Log(Severity::kInfo, "worker_dropped").With("endpoint", key.second).With("worker_role", StageName(key.first));
    entry = links_.erase(entry);
    std::lock_guard<std::mutex> lock(mutex_);
    Unpublish(key);
  }
}

bool WorkerRegistry::IsDuplicate(const WorkerSnapshot& snapshot) const {
  if (snapshot.info == nullptr) return false;
  return std::any_of(published_.begin(), published_.end(), [&](const auto& entry) {
    const WorkerSnapshot& other = entry.second;
    return other.stage == snapshot.stage && other.endpoint != snapshot.endpoint && other.info != nullptr &&
           other.info->boot_id() == snapshot.info->boot_id() &&
           (other.state == WorkerState::kServing || other.state == WorkerState::kDraining);
  });
}

void WorkerRegistry::Unpublish(const Key& key) {
  if (published_.erase(key) == 0) return;
  for (FleetObserver* observer : observers_) observer->OnWorkerRemoved(key.second, key.first);
}

void WorkerRegistry::OnLink(const WorkerSnapshot& snapshot) {
  const Key key(snapshot.stage, snapshot.endpoint);
  std::lock_guard<std::mutex> lock(mutex_);
  if (IsDuplicate(snapshot)) return Unpublish(key);
  WorkerSnapshot& published = published_[key];
  // Its name may point elsewhere by now.
  if (published.state == WorkerState::kServing && snapshot.state == WorkerState::kUnreachable) {
    woken_ = true;
    stop_changed_.notify_all();
  }
  published = snapshot;
  for (FleetObserver* observer : observers_) observer->OnWorker(snapshot);
}

std::vector<WorkerSnapshot> WorkerRegistry::Workers() const {
  std::lock_guard<std::mutex> lock(mutex_);
  std::vector<WorkerSnapshot> workers;
  workers.reserve(published_.size() + unresolved_.size());
  for (const auto& [key, snapshot] : published_) workers.push_back(snapshot);
  for (const auto& [key, problem] : unresolved_) {
    WorkerSnapshot snapshot;
    snapshot.stage = key.first;
    snapshot.endpoint = key.second;
    snapshot.state = WorkerState::kUnreachable;
    snapshot.problem = problem;
    workers.push_back(std::move(snapshot));
  }
  return workers;
}

}  // namespace baton
