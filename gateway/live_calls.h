// The calls being served, so that a shutdown can end each of them with a reason instead of a cut connection.
//
//   uint64_t id = calls.Add([session](const absl::Status& status) { session->Abort(status); });
//   calls.Remove(id);
//
// Thread-safe. AbortAll runs the callbacks without a lock held.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <utility>

#include "absl/status/status.h"

namespace baton {

class LiveCalls {
 public:
  using Abort = std::function<void(const absl::Status&)>;

  uint64_t Add(Abort abort) {
    std::lock_guard<std::mutex> lock(mutex_);
    calls_.emplace(++last_id_, std::move(abort));
    return last_id_;
  }

  void Remove(uint64_t id) {
    // The callback may own the last reference to a session.
    Abort dropped;
    std::lock_guard<std::mutex> lock(mutex_);
    const auto found = calls_.find(id);
    if (found == calls_.end()) return;
    dropped = std::move(found->second);
    calls_.erase(found);
  }

  void AbortAll(const absl::Status& status) {
    std::map<uint64_t, Abort> calls;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      calls.swap(calls_);
    }
    for (const auto& [id, abort] : calls) abort(status);
  }

 private:
  std::mutex mutex_;
  // Guarded by mutex_.
  std::map<uint64_t, Abort> calls_;
  uint64_t last_id_ = 0;
};

}  // namespace baton
