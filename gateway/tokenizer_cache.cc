#include "gateway/tokenizer_cache.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "common/base/status_macros.h"
#include "common/rpc/worker_service.h"

namespace baton {
namespace {

absl::StatusOr<std::shared_ptr<const Tokenizer>> Fetch(const std::string& hash,
                                                       const std::function<absl::StatusOr<std::string>()>& fetch) {
  BATON_ASSIGN_OR_RETURN(const std::string bytes, fetch());
  const std::string actual = TokenizerHash(bytes);
  if (actual != hash) {
    return absl::InvalidArgumentError(
        absl::StrCat("the worker announced a tokenizer with hash ", hash, " but sent one with hash ", actual));
  }
  BATON_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, Tokenizer::FromModel(bytes));
  return std::shared_ptr<const Tokenizer>(std::move(tokenizer));
}

}  // namespace

absl::StatusOr<std::shared_ptr<const Tokenizer>> TokenizerCache::Get(
    const std::string& hash, const std::function<absl::StatusOr<std::string>()>& fetch) {
  {
    std::unique_lock<std::mutex> lock(mutex_);
    while (fetching_.count(hash) > 0) fetched_.wait(lock);
    const auto found = tokenizers_.find(hash);
    if (found != tokenizers_.end()) return found->second;
    fetching_.insert(hash);
  }
  absl::StatusOr<std::shared_ptr<const Tokenizer>> tokenizer = Fetch(hash, fetch);
  std::lock_guard<std::mutex> lock(mutex_);
  fetching_.erase(hash);
  if (tokenizer.ok()) tokenizers_[hash] = *tokenizer;
  fetched_.notify_all();
  return tokenizer;
}

}  // namespace baton
