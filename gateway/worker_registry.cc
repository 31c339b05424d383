#include "gateway/worker_registry.h"

#include <netdb.h>
#include <sys/socket.h>

#include <algorithm>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "common/observe/log.h"

namespace baton {

absl::StatusOr<std::vector<std::string>> ResolveTarget(const std::string& target) {
  const size_t colon = target.rfind(':');
  if (colon == std::string::npos) return absl::InvalidArgumentError(absl::StrCat(target, " is not HOST:PORT"));
  std::string host = target.substr(0, colon);
  const std::string port = target.substr(colon + 1);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);

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

WorkerRegistry::WorkerRegistry(WorkerRegistryOptions options) : options_(std::move(options)) {}

WorkerRegistry::~WorkerRegistry() { Stop(); }

void WorkerRegistry::Start() {
  thread_ = std::thread([this] { ResolveLoop(); });
}

void WorkerRegistry::Stop() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopping_ = true;
    stop_changed_.notify_all();
  }
  if (thread_.joinable()) thread_.join();
  // All first: one link may be waiting for the tokenizer another one fetches.
  for (const auto& [key, link] : links_) link->BeginStop();
  links_.clear();
}

void WorkerRegistry::ResolveLoop() {
  while (true) {
    ResolveAll();
    std::unique_lock<std::mutex> lock(mutex_);
    if (stop_changed_.wait_for(lock, options_.resolve_interval, [this] { return stopping_; })) return;
  }
}

void WorkerRegistry::ResolveAll() {
  // With the host that each was listed by, which is what its certificate is for.
  std::map<Key, std::string> listed;
  // Without an answer for every name of a stage, nothing of that stage can be called gone.
  std::set<Stage> incomplete;
  const auto resolve = [&](Stage stage, const std::vector<std::string>& targets) {
    for (const std::string& target : targets) {
      const absl::StatusOr<std::vector<std::string>> addresses = options_.resolver(target);
      const Key key(stage, target);
      std::lock_guard<std::mutex> lock(mutex_);
      if (!addresses.ok()) {
        incomplete.insert(stage);
        const auto [entry, is_new] = unresolved_.emplace(key, std::string(addresses.status().message()));
        if (is_new) {
          Log(Severity::kWarning, "worker_name_unresolved").With("name", target).With("error", addresses.status());
        }
        continue;
      }
      unresolved_.erase(key);
      const std::string host = target.substr(0, target.rfind(':'));
      for (const std::string& address : *addresses) listed.emplace(Key(stage, address), host);
    }
  };
  resolve(Stage::kPrefill, options_.prefill);
  resolve(Stage::kDecode, options_.decode);

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
  published_[key] = snapshot;
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
