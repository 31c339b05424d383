// Which beginnings of prompts a worker has cached, as short hashes (PrefixHash::Short): the worker's side collects
// changes and tells each watcher what it has not heard yet, the gateway's side puts them together again.
//
//   PrefixSummary summary;  summary.Set(hash.Short(), true);                         // the engine
//   uint64_t told = 0;
//   if (summary.version() != told) summary.Describe(&told, load.mutable_prefixes()); // for one watcher
//
//   KnownPrefixes known;  known.Apply(load.prefixes());                              // the gateway
//   if (known.Contains(hash.Short())) ...
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <utility>

#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "baton/worker/v1/worker.pb.h"

namespace baton {

// More are not told of: a message with all of them is 256 KiB.
inline constexpr size_t kMaxToldPrefixes = 32768;

// Thread-safe.
class PrefixSummary {
 public:
  void Set(uint64_t hash, bool present);
  // Grows with every change; 0: none yet.
  uint64_t version() const { return version_.load(std::memory_order_acquire); }
  // What is new since version `*told` (0: everything), which then becomes the current one.
  void Describe(uint64_t* told, worker::v1::PrefixChanges* changes) const;

 private:
  static constexpr size_t kMaxHistory = 8192;

  mutable absl::Mutex mutex_;
  absl::flat_hash_set<uint64_t> present_ ABSL_GUARDED_BY(mutex_);
  // The last changes, the newest of which made the current version.
  std::deque<std::pair<uint64_t, bool>> history_ ABSL_GUARDED_BY(mutex_);
  std::atomic<uint64_t> version_{0};
};

// Thread-safe.
class KnownPrefixes {
 public:
  // Changes that do not follow what is known, or would exceed any worker's, are not believed: then nothing is known
  // until the worker tells everything anew.
  void Apply(const worker::v1::PrefixChanges& changes);
  bool Contains(uint64_t hash) const;
  size_t size() const;

 private:
  mutable absl::Mutex mutex_;
  absl::flat_hash_set<uint64_t> present_ ABSL_GUARDED_BY(mutex_);
  uint64_t version_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace baton
