#include "common/rpc/prefix_summary.h"

#include "absl/container/flat_hash_map.h"

namespace baton {

void PrefixSummary::Set(uint64_t hash, bool present) {
  absl::MutexLock lock(&mutex_);
  if (present) {
    if (present_.size() >= kMaxToldPrefixes || !present_.insert(hash).second) return;
  } else if (present_.erase(hash) == 0) {
    return;
  }
  history_.emplace_back(hash, present);
  if (history_.size() > kMaxHistory) history_.pop_front();
  version_.fetch_add(1, std::memory_order_release);
}

void PrefixSummary::Describe(uint64_t* told, worker::v1::PrefixChanges* changes) const {
  absl::MutexLock lock(&mutex_);
  const uint64_t version = version_.load(std::memory_order_relaxed);
  changes->set_version(version);
  if (*told == 0 || version - *told > history_.size()) {
    for (const uint64_t hash : present_) changes->add_added(hash);
  } else {
    changes->set_base(*told);
    absl::flat_hash_map<uint64_t, bool> last;
    for (size_t i = history_.size() - static_cast<size_t>(version - *told); i < history_.size(); ++i) {
      last[history_[i].first] = history_[i].second;
    }
    for (const auto& [hash, present] : last) present ? changes->add_added(hash) : changes->add_removed(hash);
  }
  *told = version;
}

void KnownPrefixes::Apply(const worker::v1::PrefixChanges& changes) {
  absl::MutexLock lock(&mutex_);
  const bool follows = changes.base() == 0 || changes.base() == version_;
  if (changes.base() == 0 || !follows) present_.clear();
  version_ = 0;
  if (!follows) return;
  for (const uint64_t hash : changes.removed()) present_.erase(hash);
  if (present_.size() + static_cast<size_t>(changes.added_size()) > 2 * kMaxToldPrefixes) {
    present_.clear();
    return;
  }
  present_.insert(changes.added().begin(), changes.added().end());
  version_ = changes.version();
}

bool KnownPrefixes::Contains(uint64_t hash) const {
  absl::MutexLock lock(&mutex_);
  return present_.contains(hash);
}

size_t KnownPrefixes::size() const {
  absl::MutexLock lock(&mutex_);
  return present_.size();
}

}  // namespace baton
