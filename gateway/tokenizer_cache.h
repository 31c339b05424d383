// Tokenizers by the hash of their file: workers that serve the same one share it, and it is fetched once. A few MiB
// each; kept for the life of the gateway.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>

#include "absl/status/statusor.h"
#include "common/text/tokenizer.h"

namespace baton {

class TokenizerCache {
 public:
  // Calls `fetch` for the file's bytes unless the tokenizer is there or another caller is fetching it, which is waited
  // for. INVALID_ARGUMENT when the bytes do not have this hash or are not a tokenizer. Failures are not kept.
  absl::StatusOr<std::shared_ptr<const Tokenizer>> Get(const std::string& hash,
                                                       const std::function<absl::StatusOr<std::string>()>& fetch);

 private:
  std::mutex mutex_;
  std::condition_variable fetched_;
  // Guarded by mutex_.
  std::map<std::string, std::shared_ptr<const Tokenizer>> tokenizers_;
  std::set<std::string> fetching_;
};

}  // namespace baton
