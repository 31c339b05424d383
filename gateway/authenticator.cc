#include "gateway/authenticator.h"

#include <openssl/crypto.h>

#include <cstring>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "common/base/mapped_file.h"
#include "common/base/sha256.h"
#include "common/base/status_macros.h"
#include "common/observe/log.h"
#include "common/rpc/status_mapping.h"
#include "gateway/request_check.h"

namespace baton {
namespace {

// Clients with metrics of their own.
constexpr size_t kMaxClientSeries = 100;
// No client's name: those have no brackets.
constexpr char kOtherClients[] = "(other)";
constexpr char kAuthorization[] = "authorization";
constexpr char kApiKeyHeader[] = "x-api-key";
constexpr char kScheme[] = "Bearer ";
// Told apart from the identities of callers whose keys nobody checks.
constexpr char kClientIdentity[] = "baton client ";

absl::Status Missing() {
  return WithReason(absl::UnauthenticatedError("this gateway wants an API key: send `authorization: Bearer KEY` "
                                               "metadata (baton: --api-key-file or BATON_API_KEY)"),
                    "API_KEY_MISSING");
}

absl::Status Invalid(absl::string_view why) { return WithReason(absl::UnauthenticatedError(why), "API_KEY_INVALID"); }

absl::string_view View(const grpc::string_ref& text) { return {text.data(), text.size()}; }

uint64_t Prefix(absl::string_view sha256) {
  uint64_t prefix = 0;
  std::memcpy(&prefix, sha256.data(), sizeof(prefix));
  return prefix;
}

// The key that a call carries.
absl::StatusOr<absl::string_view> PresentedKey(const CallMetadata& metadata) {
  for (const char* const header : {kAuthorization, kApiKeyHeader}) {
    const auto [begin, end] = metadata.equal_range(header);
    if (begin == end) continue;
    if (std::next(begin) != end) return Invalid(absl::StrCat("the call carries `", header, "` more than once"));
    absl::string_view value = View(begin->second);
    if (header == kAuthorization) {
      if (!absl::StartsWithIgnoreCase(value, kScheme)) {
        return Invalid("the `authorization` metadata must be `Bearer KEY`");
      }
      value.remove_prefix(sizeof(kScheme) - 1);
    }
    return value;
  }
  return Missing();
}

// What a caller has shown for itself where nobody checks it.
std::string UncheckedIdentity(const CallMetadata& metadata) {
  for (const char* const header : {kAuthorization, kApiKeyHeader}) {
    const auto found = metadata.find(header);
    if (found != metadata.end()) return Sha256(View(found->second));
  }
  return NoIdentity();
}

}  // namespace

Authenticator::Authenticator(Metrics* metrics) : metrics_(metrics) {}

Authenticator::~Authenticator() {
  if (watcher_ != nullptr) watcher_->Stop();
}

absl::Status Authenticator::UseKeys(const std::string& path, absl::Duration interval) {
  path_ = path;
  watcher_ = std::make_unique<FileWatcher>(std::vector<std::string>{path});
  BATON_RETURN_IF_ERROR(Load());
  watcher_->Start(interval, [this] {
    const absl::Status status = Load();
    metrics_
        ->AddCounter("baton_reloads_total", "Files read again after a change.",
                     {{"what", "api_keys"}, {"result", status.ok() ? "ok" : "failed"}})
        .Increment();
    if (!status.ok()) {
      Log(Severity::kError, "api_keys_not_reloaded").With("error", status).With("advice", "the keys before still hold");
    }
  });
  return absl::OkStatus();
}

absl::Status Authenticator::Load() {
  BATON_ASSIGN_OR_RETURN(const std::string text, ReadFileOrPipe(path_, kMaxApiKeyFileBytes));
  const absl::Status status = SetKeys(text);
  if (status.ok()) return status;
  return absl::Status(status.code(), absl::StrCat(path_, ": ", status.message()));
}

absl::Status Authenticator::SetKeys(absl::string_view text) {
  BATON_ASSIGN_OR_RETURN(std::vector<ApiKey> keys, ParseApiKeys(text));
  std::lock_guard<std::mutex> loading(loading_);
  const Clock::time_point now = Clock::now();
  std::map<std::string, std::shared_ptr<Client>> clients;
  auto table = std::make_shared<Table>();
  for (ApiKey& key : keys) {
    std::shared_ptr<Client>& client = clients[key.client];
    if (client == nullptr) {
      const auto known = clients_.find(key.client);
      if (known != clients_.end()) {
        client = known->second;
        if (!(*client->limits() == key.limits)) client->SetLimits(key.limits, now);
      } else {
        client = std::make_shared<Client>(key.client, key.limits, MetricsFor(key.client), now);
      }
    }
    Entry entry{key.sha256, key.expires, client, Sha256(absl::StrCat(kClientIdentity, key.client))};
    table->emplace(Prefix(key.sha256), std::move(entry));
  }
  clients_ = std::move(clients);
  metrics_->AddGauge("baton_api_keys", "Keys that let clients in.").Set(static_cast<double>(keys.size()));
  Log(Severity::kInfo, "api_keys")
      .With("keys", static_cast<int64_t>(keys.size()))
      .With("clients", static_cast<int64_t>(clients_.size()));
  std::lock_guard<std::mutex> lock(mutex_);
  table_ = std::move(table);
  return absl::OkStatus();
}

ClientMetrics* Authenticator::MetricsFor(const std::string& client) {
  const bool room = client_metrics_.size() < kMaxClientSeries || client_metrics_.count(client) > 0;
  const std::string label = room ? client : kOtherClients;
  std::unique_ptr<ClientMetrics>& metrics = client_metrics_[label];
  if (metrics == nullptr) metrics = std::make_unique<ClientMetrics>(metrics_, label);
  return metrics.get();
}

std::shared_ptr<const Authenticator::Table> Authenticator::table() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return table_;
}

absl::StatusOr<Caller> Authenticator::Authenticate(const CallMetadata& metadata, absl::string_view peer,
                                                   absl::Time now) {
  const std::shared_ptr<const Table> keys = table();
  if (keys == nullptr) return Caller{UncheckedIdentity(metadata), nullptr};
  absl::StatusOr<Caller> caller = Find(*keys, metadata, now);
  if (!caller.ok()) OnRefusal(caller.status(), peer);
  return caller;
}

absl::StatusOr<Caller> Authenticator::Find(const Table& table, const CallMetadata& metadata, absl::Time now) const {
  BATON_ASSIGN_OR_RETURN(const absl::string_view key, PresentedKey(metadata));
  if (key.empty()) return Missing();
  const absl::Status unknown = Invalid("this API key is not known here; it may have been withdrawn");
  if (key.size() > kMaxApiKeyBytes) return unknown;
  const std::string sha256 = Sha256(key);
  const auto found = table.find(Prefix(sha256));
  if (found == table.end()) return unknown;
  const Entry& entry = found->second;
  if (CRYPTO_memcmp(entry.sha256.data(), sha256.data(), kSha256Bytes) != 0) return unknown;
  if (now >= entry.expires) {
    return WithReason(absl::UnauthenticatedError(
                          absl::StrCat("this API key of ", entry.client->name(), " expired on ",
                                       absl::FormatTime("%Y-%m-%d %H:%M UTC", entry.expires, absl::UTCTimeZone()))),
                      "API_KEY_EXPIRED");
  }
  return Caller{entry.identity, entry.client};
}

void Authenticator::OnRefusal(const absl::Status& status, absl::string_view peer) {
  const std::string reason = ErrorReason(status);
  const char* const label = reason == "API_KEY_MISSING"   ? "missing"
                            : reason == "API_KEY_EXPIRED" ? "expired"
                                                          : "invalid";
  metrics_
      ->AddCounter("baton_unauthenticated_calls_total", "Calls refused for want of a good API key.",
                   {{"reason", label}})
      .Increment();
  unlogged_.fetch_add(1);
  if (!log_limit_.Due()) return;
  Log(Severity::kWarning, "unauthenticated")
      .With("reason", reason)
      .With("peer", peer)
      .With("calls", unlogged_.exchange(0));
}

}  // namespace baton
