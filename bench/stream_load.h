// A gateway's streams, read as fast as they come. Every token is compared with what it has to be.
//
//   StreamLoad load(options);
//   load.Open(10000);
//   load.AwaitFirstTokens(10000, patience);
//   load.AwaitEnds(patience);      // after the workers ended them
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/channel.h>
#include <grpcpp/client_context.h>

#include "absl/container/flat_hash_set.h"
#include "absl/synchronization/mutex.h"
#include "baton/v1/inference.pb.h"

namespace baton {

struct StreamLoadOptions {
  std::string target;
  int connections = 4;
  // What each stream asks for.
  v1::GenerateRequest request;
  int64_t prompt_tokens = 0;
  // The token that belongs at a position.
  std::function<int32_t(int64_t)> token_at;
};

class StreamLoad {
 public:
  explicit StreamLoad(StreamLoadOptions options);
  // Cancels what still runs.
  ~StreamLoad();
  StreamLoad(const StreamLoad&) = delete;

  void Open(int streams);
  // False when it takes longer than `patience`.
  bool AwaitFirstTokens(int64_t streams, std::chrono::seconds patience);
  bool AwaitEnds(std::chrono::seconds patience);
  // Ends what runs, from this side.
  void Cancel();

  int64_t begun() const { return begun_; }
  // Streams that ended as they should: OK, told why, every token once and in order.
  int64_t ended_well() const { return ended_well_; }
  int64_t ended_badly() const { return ended_badly_; }
  // Why the first of those did.
  std::string problem() const;

 private:
  class Stream;

  void Ended(const std::string& problem, const std::shared_ptr<grpc::ClientContext>& context);

  const StreamLoadOptions options_;
  std::vector<std::shared_ptr<grpc::Channel>> channels_;
  std::atomic<int64_t> begun_{0};
  std::atomic<int64_t> ended_well_{0};
  std::atomic<int64_t> ended_badly_{0};
  mutable absl::Mutex mutex_;
  absl::flat_hash_set<std::shared_ptr<grpc::ClientContext>> contexts_ ABSL_GUARDED_BY(mutex_);
  std::string problem_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace baton
