// Who calls: finds the client whose API key a call carries, in a key file that may change while the gateway runs.
//
//   Authenticator authenticator(&metrics);
//   BATON_RETURN_IF_ERROR(authenticator.UseKeys("/etc/baton/keys"));   // without it everybody may call
//   BATON_ASSIGN_OR_RETURN(const Caller caller, authenticator.Authenticate(context.client_metadata()));
//     UNAUTHENTICATED   reason API_KEY_MISSING, API_KEY_INVALID or API_KEY_EXPIRED
//
// A changed file is read again within about a second. One that cannot be used changes nothing and is logged. Requests
// that run when their key goes away are finished.
//
// A key is looked for by the first bytes of its hash; what tells right from wrong is a comparison of hashes that takes
// the same time whatever they are. Thread-safe.
#pragma once

#include <atomic>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <grpcpp/support/string_ref.h>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "common/base/file_watcher.h"
#include "common/observe/log_limit.h"
#include "common/observe/metrics.h"
#include "gateway/api_keys.h"
#include "gateway/client.h"

namespace baton {

// Metadata of a call, as gRPC gives it: keys in lower case.
using CallMetadata = std::multimap<grpc::string_ref, grpc::string_ref>;

struct Caller {
  // 32 bytes: what is kept for a caller is bound to it, and so is its share of the gateway. That of the client when
  // keys are checked, so that it outlives a change of keys; else of what the call carries; zeros when that is nothing.
  std::string identity;
  // Null when keys are not checked.
  std::shared_ptr<Client> client;
};

class Authenticator {
 public:
  // `metrics` must outlive it.
  explicit Authenticator(Metrics* metrics);
  ~Authenticator();
  Authenticator(const Authenticator&) = delete;

  // Once, before calls come. INVALID_ARGUMENT with file and line, or why the file cannot be read.
  absl::Status UseKeys(const std::string& path, absl::Duration interval = absl::Seconds(1));
  // From now on with these keys. What UseKeys does with the file's, for tests and fuzzers.
  absl::Status SetKeys(absl::string_view text);

  // `now` is what keys expire by. `peer` is for the log.
  absl::StatusOr<Caller> Authenticate(const CallMetadata& metadata, absl::string_view peer = "",
                                      absl::Time now = absl::Now());

 private:
  struct Entry {
    std::string sha256;
    absl::Time expires;
    std::shared_ptr<Client> client;
    std::string identity;
  };
  // By the first eight bytes of the hash.
  using Table = absl::flat_hash_map<uint64_t, Entry>;

  absl::Status Load();
  // The handles of a client. Beyond a number of clients all others share theirs: `other`.
  ClientMetrics* MetricsFor(const std::string& client);
  std::shared_ptr<const Table> table() const;
  absl::StatusOr<Caller> Find(const Table& table, const CallMetadata& metadata, absl::Time now) const;
  // Counts it, and logs the first of each second.
  void OnRefusal(const absl::Status& status, absl::string_view peer);

  Metrics* const metrics_;
  std::string path_;
  std::unique_ptr<FileWatcher> watcher_;

  // Held while keys are set.
  std::mutex loading_;
  std::map<std::string, std::shared_ptr<Client>> clients_;
  // By client; never given up, since metrics are not.
  std::map<std::string, std::unique_ptr<ClientMetrics>> client_metrics_;

  mutable std::mutex mutex_;
  // Guarded by mutex_. Null: keys are not checked.
  std::shared_ptr<const Table> table_;
  // Refusals since the last one logged.
  std::atomic<int64_t> unlogged_{0};
  LogLimit log_limit_;
};

}  // namespace baton
